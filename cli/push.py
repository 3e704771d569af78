"""`edgec push`: upload an artifact to the fleet's registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.arguments import Json, Server, Token
from edgec.cli.console import emit_json, err, out, styled
from edgec.targets.errors import UsageError


def command(
    artifact: Annotated[Path, typer.Argument(help="The .edge file.", exists=True, dir_okay=False)],
    name: Annotated[
        str | None, typer.Option(help="Name of the model in the registry. [default: the artifact's]")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Version in the registry. [default: the artifact's]")
    ] = None,
    following: Annotated[
        bool, typer.Option("--next", help="Take the next number as the version: 4 after 3, 2 after 1.5.")
    ] = False,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Push an artifact to the fleet's registry; blobs that it already has are not sent again.

    A version stays what it is: the same artifact again changes nothing, another one is refused.
    """
    if following and version:
        raise UsageError("--next and --version exclude each other")
    from dataclasses import asdict

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from edgec.fleet.client.connection import FleetClient, resolve
    from edgec.fleet.client.push import push_artifact

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with (
        FleetClient(*resolve(server, token), timeout_s=120) as client,
        Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar,
    ):
        tasks: dict[str, object] = {}

        def progress(title: str, done: int, total: int) -> None:
            if title not in tasks:
                tasks[title] = bar.add_task(title, total=total)
            bar.update(tasks[title], completed=done)  # type: ignore[arg-type]

        pushed = push_artifact(client, artifact, name, version, progress, following=following)
    if as_json:
        emit_json(asdict(pushed))
        return
    what = (f"{pushed.model}:{pushed.version}", "bold")
    did = "the registry has " if pushed.known else "pushed "
    out.print(styled(did, what, f" for {pushed.target}: {pushed.digest}"))
    out.print(f"{pushed.sent_bytes / 1e6:.1f} of {pushed.size / 1e6:.1f} MB were new to the registry")
