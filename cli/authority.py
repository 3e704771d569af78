"""The option `--ca` of every command that calls a fleet server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command


class WithAuthority(TyperGroup):
    """The root of the command line: adds `--ca` to each command that has `--server` and no `--ca` of its own."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - typer's own
        super().__init__(**options)
        _extend(self)


def _extend(command: Any) -> None:  # noqa: ANN401 - a command of click, or of the copy that typer brings
    for below in getattr(command, "commands", {}).values():
        _extend(below)
    names = {name for param in command.params for name in getattr(param, "opts", ())}
    if "--server" in names and "--ca" not in names:
        command.params.append(_option())


def _option() -> Any:  # noqa: ANN401
    """The option, as this version of typer makes it from a function's parameter."""
    template = typer.Typer(add_completion=False)
    template.command()(_template)
    return get_command(template).params[0]


def _give(value: Path | None) -> Path | None:
    if value is not None:
        from edgec.fleet.client.authority import give

        give(value)
    return value


def _template(
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            expose_value=False,
            callback=_give,
            show_default=False,
            help="The authority (PEM) that issued an https server's certificate, if this machine does not know it. "
            "[default: $EDGEC_CA, or the one that `edgec fleet login` kept]",
        ),
    ] = None,
) -> None:
    pass
