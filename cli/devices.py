"""`edgec devices`: the devices of the fleet, their state and their admission."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgec.cli.arguments import Json, Server, Token, Yes, sure
from edgec.cli.console import ago, emit_json, out, styled

app = typer.Typer(
    no_args_is_help=False, invoke_without_command=True, help="List, show, accept and revoke devices."
)


@app.callback()
def _default(
    context: typer.Context, server: Server = None, token: Token = None, as_json: Json = False
) -> None:
    if context.invoked_subcommand is None:
        list_devices(server=server, token=token, as_json=as_json)


@app.command("list")
def list_devices(
    search: Annotated[str, typer.Option(help="Only devices whose name or target contains this.")] = "",
    state: Annotated[
        str,
        typer.Option(
            help="Only devices in this state: online, offline, stopped, never, pending, revoked or drift."
        ),
    ] = "",
    in_group: Annotated[str, typer.Option("--group", help="Only devices of this group.")] = "",
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """List devices."""
    from rich.table import Table

    from edgec.fleet.client.connection import FleetClient, resolve

    with FleetClient(*resolve(server, token)) as client:
        rows = list(client.pages("/devices", limit=1000, search=search, state=state, group=in_group))
    if as_json:
        emit_json(rows)
        return
    if not rows:
        out.print(
            "no devices"
            + (" match" if search or state or in_group else "; enrol one: edgec fleet token create")
        )
        return
    table = Table("device", "state", "target", "model", "fps", "latency", "last seen")
    for row in rows:
        table.add_row(
            row["name"], styled(_state(row)), row["target"], _version(row), _number(row["fps"], ""),
            _number(row["latency_ms"], " ms"), ago(row["last_seen"]),
        )  # fmt: skip
    out.print(table)


@app.command("show")
def show_device(
    name: Annotated[str, typer.Argument(help="Name of the device.")],
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Show a device's health, streams, models and jobs."""
    from rich.table import Table

    from edgec.fleet.client.connection import FleetClient, part, resolve

    with FleetClient(*resolve(server, token)) as client:
        device = client.get(f"/devices/{part(name)}")
        device["jobs"] = client.get(f"/devices/{part(name)}/jobs", limit=5)["items"]
    if as_json:
        emit_json(device)
        return
    out.print(
        styled((device["name"], "bold"), ": ", _state(device), f", last seen {ago(device['last_seen'])}")
    )
    out.print(f"target {device['target']}, agent {device['agent_version'] or '?'}, runs {_version(device)}")
    for stream in device["health"].get("streams", []):
        total = stream.get("latency", {}).get("total", {})
        out.print(
            f"  stream {stream['name']}: {stream['state']}, {stream['fps']:.1f} fps,"
            f" {stream['dropped']} dropped, p50 {total.get('p50_ms', 0):.1f} ms"
        )
    if device["jobs"]:
        table = Table("job", "purpose", "state", "step", "message")
        for job in device["jobs"]:
            details = job["details"]
            table.add_row(
                job["job_id"],
                job["purpose"],
                job["state"],
                str(details.get("step", "")),
                str(details.get("message", "")),
            )
        out.print(table)


def _admission(name: str, action: str, server: str | None, token: str | None) -> None:
    from edgec.fleet.client.connection import FleetClient, part, resolve

    with FleetClient(*resolve(server, token)) as client:
        device = client.post(f"/devices/{part(name)}/{action}")
    out.print(f"{device['name']} is {device['admission']}")


@app.command("accept")
def accept(name: str, server: Server = None, token: Token = None) -> None:
    """Accept a pending device."""
    _admission(name, "accept", server, token)


@app.command("revoke")
def revoke(name: str, yes: Yes = False, server: Server = None, token: Token = None) -> None:
    """Revoke a device; its credentials stop working immediately."""
    sure(name, "end this device's access", yes=yes)
    _admission(name, "revoke", server, token)


def _state(row: dict[str, Any]) -> tuple[str, str]:
    """Return the state in words, and its style."""
    if row["admission"] != "accepted":
        return str(row["admission"]), ""
    colour = {"online": "green", "offline": "red", "stopped": "yellow"}.get(row["state"], "dim")
    return row["state"], colour


def _version(row: dict[str, Any]) -> str:
    running = f"{row['model']}:{row['version']}" if row["version"] else "-"
    return f"{running} → {row['desired_version']}" if row["drift"] else running


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f}{unit}"
