"""`edgec fleet token`: enrolment tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.cli.arguments import Json, Server, Token, parse_duration, parse_labels
from edgec.cli.console import emit_json, err, out
from edgec.cli.fleet.client import connect

app = typer.Typer(no_args_is_help=True, help="Enrolment tokens, with which devices join the fleet.")


@app.command("create")
def token_create(
    uses: Annotated[int, typer.Option(help="Number of devices that may enrol with the token.")] = 1,
    valid: Annotated[str, typer.Option(help="Validity, such as 24h.")] = "24h",
    label: Annotated[
        list[str] | None, typer.Option(help="Label for the enrolled devices, as NAME=VALUE. Repeatable.")
    ] = None,
    hold: Annotated[
        bool, typer.Option("--hold", help="Enrolled devices wait for an operator's approval.")
    ] = False,
    note: Annotated[str, typer.Option(help="A note for the list of tokens.")] = "",
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Create an enrolment token."""
    body = {"uses": uses, "valid_s": parse_duration(valid), "labels": parse_labels(label or []), "note": note}
    if hold:
        body["auto_accept"] = False
    with connect(server, token) as client:
        made = client.post("/enroll-tokens", body)
        address = client.server
    if as_json:
        emit_json(made | {"server": address})
        return
    out.print(made["token"], soft_wrap=True)
    err.print(
        f"valid for {uses} device(s) and {valid}: edgec agent enroll --server {address} --token …",
        soft_wrap=True,
    )


@app.command("list")
def token_list(server: Server = None, token: Token = None) -> None:
    """List valid enrolment tokens as JSON."""
    with connect(server, token) as client:
        emit_json(client.get("/enroll-tokens")["items"])


@app.command("revoke")
def token_revoke(number: int, server: Server = None, token: Token = None) -> None:
    """Revoke an enrolment token."""
    with connect(server, token) as client:
        client.delete(f"/enroll-tokens/{number}")
