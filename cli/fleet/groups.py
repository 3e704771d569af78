"""`edgec fleet groups`: named sets of devices."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgec.cli.arguments import Server, Token, parse_labels
from edgec.cli.console import emit_json
from edgec.cli.fleet.client import connect

app = typer.Typer(no_args_is_help=True, help="Groups of devices.")


@app.command("put")
def groups_put(
    name: str,
    device: Annotated[list[str] | None, typer.Option(help="A device to include by name. Repeatable.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Include devices with this label, as NAME=VALUE. Repeatable.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Include devices of this target.")] = None,
    server: Server = None,
    token: Token = None,
) -> None:
    """Create or replace a group of devices, by name or by labels and target."""
    from edgec.fleet.client.connection import part

    selector: dict[str, Any] = {"labels": parse_labels(label)} if label else {}
    if target:
        selector["target"] = target
    with connect(server, token) as client:
        emit_json(client.put(f"/groups/{part(name)}", {"devices": device or [], "selector": selector}))


@app.command("list")
def groups_list(server: Server = None, token: Token = None) -> None:
    """List groups as JSON."""
    with connect(server, token) as client:
        emit_json(client.get("/groups")["items"])
