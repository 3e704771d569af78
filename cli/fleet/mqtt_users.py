"""`edgec fleet mqtt-user`: users of the broker that are no devices."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.cli.arguments import Json, Server, Token, Yes, sure
from edgec.cli.console import emit_json, err, out
from edgec.cli.fleet.client import connect

app = typer.Typer(
    no_args_is_help=True, help="Users of the broker that are no devices, such as Home Assistant."
)


@app.command()
def create(
    name: str,
    home_assistant: Annotated[
        bool,
        typer.Option(
            "--home-assistant", help="Grant what Home Assistant needs: to see all devices, and command none."
        ),
    ] = False,
    read: Annotated[
        list[str] | None, typer.Option(help="A topic filter that it may subscribe to. Repeatable.")
    ] = None,
    write: Annotated[
        list[str] | None, typer.Option(help="A topic filter that it may publish to. Repeatable.")
    ] = None,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Create a user of the broker, embedded or Mosquitto, and print its password, shown only once."""
    body = {"name": name, "home_assistant": home_assistant, "reads": read or [], "writes": write or []}
    with connect(server, token) as client:
        made = client.post("/mqtt-users", body)
    if as_json:
        emit_json(made)
        return
    out.print(made["password"], soft_wrap=True)
    broker = made["broker"]
    secured = ", with TLS" if broker["tls"] else ""
    err.print(f"user {name} at {broker['host']}:{broker['port']}{secured}", soft_wrap=True)


@app.command("list")
def list_all(server: Server = None, token: Token = None) -> None:
    """List users of the broker and their rights as JSON."""
    with connect(server, token) as client:
        emit_json(client.get("/mqtt-users")["items"])


@app.command()
def delete(name: str, yes: Yes = False, server: Server = None, token: Token = None) -> None:
    """Remove a user of the broker; its connections are closed."""
    from edgec.fleet.client.connection import part

    sure(name, "close this user's connections", yes=yes)
    with connect(server, token) as client:
        client.delete(f"/mqtt-users/{part(name)}")
