"""`edgec fleet rollouts`: the state of rollouts, and their control."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgec.cli.arguments import Json, Server, Token
from edgec.cli.console import emit_json, out, styled
from edgec.cli.fleet.client import connect

app = typer.Typer(no_args_is_help=True, help="List, show and control rollouts.")


@app.command("list")
def rollouts_list(
    model: Annotated[str, typer.Option(help="Only rollouts of this model.")] = "",
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """List rollouts, newest first."""
    from rich.table import Table

    with connect(server, token) as client:
        rows = client.get("/rollouts", model=model, limit=100)["items"]
    if as_json:
        emit_json(rows)
        return
    if not rows:
        out.print("no rollouts; start one: edgec deploy MODEL:VERSION --to DEVICE")
        return
    table = Table("id", "model", "for", "state", "updated", "devices", "reason")
    for row in rows:
        scope = row["scope"]
        counts = ", ".join(f"{n} {state.lower()}" for state, n in sorted(row["devices"].items()))
        table.add_row(
            str(row["id"]), f"{row['model']}:{row['version']}", f"{scope['kind']} {scope['name']}".strip(),
            row["state"], _progress(row), counts, row["reason"],
        )  # fmt: skip
    out.print(table)


@app.command("show")
def rollouts_show(number: int, server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """Show a rollout with its stages and devices."""
    from rich.table import Table

    with connect(server, token) as client:
        rollout = client.get(f"/rollouts/{number}")
        rollout["members"] = list(client.pages(f"/rollouts/{number}/devices", limit=1000))
    if as_json:
        emit_json(rollout)
        return
    out.print(
        styled(
            f"rollout {number} of ",
            (f"{rollout['model']}:{rollout['version']}", "bold"),
            f" is {rollout['state']}: {_progress(rollout)}",
        )
    )
    if rollout["reason"]:
        out.print(rollout["reason"])
    table = Table("device", "slot", "stage", "state", "previous", "detail")
    for row in rollout["members"][:100]:
        table.add_row(
            row["device"],
            row.get("slot") or "-",
            str(row["stage"] + 1),
            row["state"],
            row["previous_version"] or "-",
            row["detail"],
        )
    out.print(table)


def _progress(rollout: dict[str, Any]) -> str:
    """Return how many of the places that the rollout is for run its version."""
    counts = rollout["devices"]
    return f"{counts.get('SUCCEEDED', 0)} of {sum(counts.values()) - counts.get('SKIPPED', 0)}"


def _control(number: int, action: str, server: str | None, token: str | None, **params: Any) -> None:  # noqa: ANN401
    with connect(server, token) as client:
        rollout = client.post(f"/rollouts/{number}/{action}", **params)
    out.print(f"rollout {number} is {rollout['state']}")


@app.command("pause")
def rollouts_pause(number: int, server: Server = None, token: Token = None) -> None:
    """Pause a rollout: no further device starts; those in progress finish."""
    _control(number, "pause", server, token)


@app.command("resume")
def rollouts_resume(number: int, server: Server = None, token: Token = None) -> None:
    """Resume a paused rollout."""
    _control(number, "resume", server, token)


@app.command("approve")
def rollouts_approve(number: int, server: Server = None, token: Token = None) -> None:
    """Approve the next stage."""
    _control(number, "approve", server, token)


@app.command("abort")
def rollouts_abort(
    number: int,
    take_back: Annotated[
        bool, typer.Option("--take-back", help="Return updated devices to their previous version.")
    ] = False,
    server: Server = None,
    token: Token = None,
) -> None:
    """Abort a rollout immediately."""
    _control(number, "abort", server, token, take_back=take_back)
