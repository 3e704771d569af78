"""`edgec experiments`: compare a candidate version with the one that devices run."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from edgec.cli.arguments import Json, Server, Token, parse_duration, parse_model_version, parse_scope
from edgec.cli.console import ago, emit_json, out, styled

app = typer.Typer(
    no_args_is_help=False,
    invoke_without_command=True,
    help="Compare a candidate version with the one that devices run.",
)
Number = Annotated[int, typer.Argument(help="Number of the experiment.")]


@app.callback()
def _default(
    context: typer.Context, server: Server = None, token: Token = None, as_json: Json = False
) -> None:
    if context.invoked_subcommand is None:
        list_experiments(server=server, token=token, as_json=as_json)


@app.command("list")
def list_experiments(server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """List experiments, newest first."""
    from rich.table import Table

    from edgec.fleet.client.connection import FleetClient, resolve

    with FleetClient(*resolve(server, token)) as client:
        rows = client.get("/experiments", limit=100)["items"]
    if as_json:
        emit_json(rows)
        return
    if not rows:
        out.print("no experiments; start one: edgec experiments start MODEL:VERSION --group GROUP")
        return
    table = Table("#", "candidate", "kind", "for", "frames", "verdict", "state", "started")
    for row in rows:
        table.add_row(
            str(row["id"]), row["name"], row["mode"], row["scope"]["name"] or "all", str(row["frames"]), _verdict(row),
            row["state"].lower(), ago(row["created_at"]),
        )  # fmt: skip
    out.print(table)


@app.command("start")
def start(
    model: Annotated[
        str, typer.Argument(metavar="MODEL:VERSION", help="The candidate, a version that was pushed.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="DEVICE", help="Run on this device.")] = "",
    in_group: Annotated[str, typer.Option("--group", help="Run on this group.")] = "",
    everyone: Annotated[bool, typer.Option("--all", help="Run on every accepted device.")] = False,
    mode: Annotated[
        str,
        typer.Option(
            help="shadow: the candidate only observes; ab: its results count for its share of frames."
        ),
    ] = "shadow",
    share: Annotated[
        float, typer.Option(min=0.1, max=100, help="Percentage of frames that the candidate sees.")
    ] = 20.0,
    slot: Annotated[
        str, typer.Option(help="Slot to compare the candidate with. [default: the model's name]")
    ] = "",
    duration: Annotated[str, typer.Option(help="Maximum duration, such as 24h.")] = "24h",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end.")] = False,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Start comparing a candidate with the model that devices run."""
    from edgec.fleet.client.connection import FleetClient, resolve

    name, version = parse_model_version(model)
    body = {
        "mode": mode, "model": name, "version": version, "slot": slot or None,
        "scope": parse_scope(to, in_group, everyone),
        "plan": {"share": share / 100, "duration_s": parse_duration(duration)},
    }  # fmt: skip
    with FleetClient(*resolve(server, token)) as client:
        row = client.post("/experiments", body)
        if not as_json:
            out.print(f"experiment {row['id']} compares {model}: {client.server}/experiments/{row['id']}")
        while wait and row["state"] != "ENDED":
            time.sleep(1.0)
            row = client.get(f"/experiments/{row['id']}")
    if as_json:
        emit_json(row)
    elif wait:
        _print(row)


@app.command("show")
def show(number: Number, server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """Show an experiment's measurements and the confidence of its verdict."""
    from edgec.fleet.client.connection import FleetClient, resolve

    with FleetClient(*resolve(server, token)) as client:
        row = client.get(f"/experiments/{number}")
    if as_json:
        emit_json(row)
    else:
        _print(row)


@app.command("stop")
def stop(number: Number, server: Server = None, token: Token = None) -> None:
    """End an experiment; its devices then run their own model only."""
    from edgec.fleet.client.connection import FleetClient, resolve

    with FleetClient(*resolve(server, token)) as client:
        row = client.post(f"/experiments/{number}/stop")
    out.print(f"experiment {row['id']} is ending: {_verdict(row)}")


def _verdict(row: dict[str, Any]) -> str:
    sure = f" ({row['confidence']:.2%} confidence)" if row["verdict"] != "undecided" else ""
    return f"{row['verdict']}{sure}"


def _print(row: dict[str, Any]) -> None:
    from rich.table import Table

    reason = f": {row['reason']}" if row["reason"] else ""
    state = f" is {row['state'].lower()}{reason}"
    out.print(styled(f"experiment {row['id']} of ", (row["name"], "bold"), state))
    out.print(f"verdict {_verdict(row)} after {row['frames']} frames")
    table = Table("criterion", "measured", "tolerated", "reports", "evidence", "verdict")
    for name, one in row["criteria"].items():
        measured = "-" if one["value"] is None else f"{one['value']:g}"
        evidence = f"{max(one['against'], one['in_favour']):.3g} of {one['needed']:g}"
        table.add_row(name, measured, f"{one['tolerated']:g}", str(one["readings"]), evidence, one["verdict"])
    out.print(table)
