"""`edgec devices`: the devices of the fleet, their state and their admission."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import Json, Server, Token, Yes, file_to_write, parse_duration, sure
from edgec.cli.console import ago, emit_json, out, styled

app = typer.Typer(
    no_args_is_help=False, invoke_without_command=True, help="List, show, accept, revoke and delete devices."
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
    table = Table("device", "state", "target", "models", "fps", "latency", "last seen")
    for row in rows:
        table.add_row(
            row["name"], styled(_state(row)), row["target"], "\n".join(_versions(row)), _number(row["fps"], ""),
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
    out.print(f"target {device['target']}, agent {device['agent_version'] or '?'}")
    if twice := device.get("duplicate"):
        out.print(
            f"two devices use this identity: boot {twice['holder']} keeps it, boot {twice['refused']} is refused",
            style="red",
        )
    for one in device.get("models", []):
        out.print(f"  slot {one['slot']}: {_running(one)}, {one['state']}{_why(one)}")
    for stream in device["health"].get("streams", []):
        total = stream.get("latency", {}).get("total", {})
        out.print(
            f"  stream {stream['name']}: {stream['state']}, {stream['fps']:.1f} fps,"
            f" {stream['dropped']} dropped, {stream.get('damaged', 0)} damaged, p50 {total.get('p50_ms', 0):.1f} ms"
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


@app.command("detections")
def detections(
    output: Annotated[Path, typer.Argument(help="The CSV file to write.")],
    device: Annotated[str, typer.Option(help="Only detections of this device.")] = "",
    stream: Annotated[str, typer.Option(help="Only detections of this stream.")] = "",
    label: Annotated[str, typer.Option(help="Only detections with this label.")] = "",
    since: Annotated[str, typer.Option(help="Only of the last while, such as 24h.")] = "",
    server: Server = None,
    token: Token = None,
) -> None:
    """Export detections as a table."""
    from edgec.fleet.client.connection import FleetClient, resolve

    file_to_write(output)
    begin = time.time() - parse_duration(since) if since else None
    with FleetClient(*resolve(server, token)) as client:
        size = client.download(
            "/detections/export", output, device=device, stream=stream, label=label, since=begin
        )
    out.print(f"wrote {output}, {size / 1e6:.1f} MB")


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


@app.command("delete")
def delete(name: str, yes: Yes = False, server: Server = None, token: Token = None) -> None:
    """Delete a device and everything it reported; its name is free then, also for the same device."""
    from edgec.fleet.client.connection import FleetClient, part, resolve

    sure(name, "delete this device and everything it reported", yes=yes)
    with FleetClient(*resolve(server, token)) as client:
        client.delete(f"/devices/{part(name)}")
    out.print(f"{name} is deleted")


def _state(row: dict[str, Any]) -> tuple[str, str]:
    """Return the state in words, and its style."""
    if row["admission"] != "accepted":
        return str(row["admission"]), ""
    colour = {"online": "green", "offline": "red", "stopped": "yellow"}.get(row["state"], "dim")
    return row["state"], colour


def _versions(row: dict[str, Any]) -> list[str]:
    """Return what each slot runs, with the name of the slot where there are several."""
    if not row.get("models"):
        return [f"{row['model']}:{row['version']}" if row["version"] else "-"]
    several = len(row["models"]) > 1
    return [f"{one['slot']} {_running(one)}" if several else _running(one) for one in row["models"]]


def _running(one: dict[str, Any]) -> str:
    """Return what a slot runs and, where it is something else, what is wanted of it."""
    running = f"{one['model']}:{one['version']}" if one["model"] else "-"
    wanted = one["desired"]
    if wanted is None or wanted["digest"] == one["digest"] or not (one["drift"] or one["updating"]):
        return running
    name = "" if wanted["model"] == one["model"] else f"{wanted['model']}:"
    return f"{running} → {name}{wanted['version']}"


def _why(one: dict[str, Any]) -> str:
    said = list(dict.fromkeys(text for text in (one["message"], one["reason"]) if text))
    return f" ({'; '.join(said)})" if said else ""


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f}{unit}"
