"""`edgec fleet token`: enrolment tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.cli.arguments import Json, Server, Token, parse_duration, parse_labels
from edgec.cli.console import emit_json, err, out
from edgec.cli.fleet.client import connect

app = typer.Typer(no_args_is_help=True, help="Enrolment tokens: each lets devices into the fleet.")


@app.command("create")
def token_create(
    uses: Annotated[int, typer.Option(help="How many devices it lets in.")] = 1,
    valid: Annotated[str, typer.Option(help="For how long, such as 24h.")] = "24h",
    label: Annotated[
        list[str] | None, typer.Option(help="name=value that such devices get; may be repeated.")
    ] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Devices wait until somebody accepts them.")] = False,
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Make an enrolment token."""
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
        f"lets {uses} device(s) in for {valid}: edgec agent enroll --server {address} --token …",
        soft_wrap=True,
    )


@app.command("list")
def token_list(server: Server = None, token: Token = None) -> None:
    """Enrolment tokens that still let devices in, as JSON."""
    with connect(server, token) as client:
        emit_json(client.get("/enroll-tokens")["items"])


@app.command("revoke")
def token_revoke(number: int, server: Server = None, token: Token = None) -> None:
    """Make an enrolment token useless."""
    with connect(server, token) as client:
        client.delete(f"/enroll-tokens/{number}")
