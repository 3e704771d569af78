"""`edgec fleet access`: access tokens of people and machines."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.cli.arguments import Json, Server, Token
from edgec.cli.console import emit_json, out
from edgec.cli.fleet.client import connect

app = typer.Typer(no_args_is_help=True, help="Access tokens for people and machines.")


@app.command("create")
def access_create(
    name: str,
    role: Annotated[str, typer.Option(help="Role of the token: viewer, operator or admin.")] = "viewer",
    model: Annotated[
        list[str] | None, typer.Option(help="Restrict the token to this model's repository. Repeatable.")
    ] = None,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Create an access token for a person or a machine."""
    with connect(server, token) as client:
        made = client.post("/access-tokens", {"name": name, "role": role, "models": model or []})
    emit_json(made) if as_json else out.print(made["token"], soft_wrap=True)


@app.command("list")
def access_list(server: Server = None, token: Token = None) -> None:
    """List access tokens, without their secrets, as JSON."""
    with connect(server, token) as client:
        emit_json(client.get("/access-tokens")["items"])


@app.command("revoke")
def access_revoke(name: str, server: Server = None, token: Token = None) -> None:
    """Revoke an access token immediately."""
    from edgec.fleet.client.connection import part

    with connect(server, token) as client:
        client.delete(f"/access-tokens/{part(name)}")
