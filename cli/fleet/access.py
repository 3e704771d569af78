"""`edgec fleet access`: access tokens of people and machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.arguments import Json, Server, Token, Yes, existing, parse_duration, sure
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
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="Restrict the token to an area of the API, as AREA:read or AREA:write, such as registry:write. "
            "Repeatable."
        ),
    ] = None,
    valid: Annotated[str, typer.Option(help="Validity, up to 366d.")] = "90d",
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Create an access token for a person or a machine. Every token expires."""
    body = {
        "name": name, "role": role, "models": model or [], "scopes": scope or [], "valid_s": parse_duration(valid),
    }  # fmt: skip
    with connect(server, token) as client:
        made = client.post("/access-tokens", body)
    emit_json(made) if as_json else out.print(made["token"], soft_wrap=True)


@app.command("list")
def access_list(server: Server = None, token: Token = None) -> None:
    """List access tokens, without their secrets, as JSON."""
    with connect(server, token) as client:
        emit_json(client.get("/access-tokens")["items"])


@app.command("revoke")
def access_revoke(name: str, yes: Yes = False, server: Server = None, token: Token = None) -> None:
    """Revoke an access token immediately."""
    from edgec.fleet.client.connection import part

    sure(name, "sign out everyone who uses this token", yes=yes)
    with connect(server, token) as client:
        client.delete(f"/access-tokens/{part(name)}")


@app.command("renew-admin")
def renew_admin(
    data: Annotated[Path, typer.Option(help="Data folder of the fleet server.")] = Path("edgec-fleet"),
    database: Annotated[
        str | None,
        typer.Option(help="Its database, if it is not in the data folder.", envvar="EDGEC_FLEET_DATABASE"),
    ] = None,
) -> None:
    """On the server's machine: give the token `admin` a new secret, when all others are lost or expired."""
    from edgec.fleet.access import tokens
    from edgec.fleet.settings import load_settings
    from edgec.fleet.store.database import Database

    settings = load_settings(data=existing(data, "data folder"), database=database)
    opened = Database(settings.database_url)
    opened.migrate()
    path = tokens.renew_admin(opened, data)
    opened.close()
    out.print(f"the new token, valid for {tokens.VALID_S / 86400:.0f} days, is in {path}", soft_wrap=True)
