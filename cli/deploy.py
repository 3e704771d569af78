"""`edgec deploy`: roll a version out to devices, in stages if desired."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from edgec.cli.arguments import Json, Server, Token, parse_duration, parse_model_version, parse_scope
from edgec.cli.console import emit_json, err, out, styled
from edgec.targets.errors import UsageError


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL:VERSION", help="A version that was pushed.")],
    to: Annotated[str | None, typer.Option("--to", metavar="DEVICE", help="Deploy to this device.")] = None,
    group: Annotated[str | None, typer.Option("--group", help="Deploy to this group.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Deploy to every accepted device.")] = False,
    slot: Annotated[
        str, typer.Option(help="Slot to update. [default: those that run the model, or the one of its name]")
    ] = "",
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Include devices that run it: they check their copy and mend it."),
    ] = False,
    stages: Annotated[
        str,
        typer.Option(
            help="Stages in percent of the devices, each with an optional soak time: '5:10m,25:1h,100'."
        ),
    ] = "100",
    max_failed: Annotated[
        float, typer.Option(help="Percentage of failed devices that stops the rollout.")
    ] = 20.0,
    on_failure: Annotated[
        str, typer.Option(help="Reaction to a failed rollout: rollback or stop.")
    ] = "rollback",
    rate: Annotated[float | None, typer.Option(help="Maximum number of devices updated per minute.")] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(help="Fail the rollout if latency grows by more than this factor, such as 1.5."),
    ] = None,
    max_errors: Annotated[
        float | None,
        typer.Option(help="Fail if the share of failed inferences rises by more than this, such as 0.01."),
    ] = None,
    max_event_change: Annotated[
        float | None, typer.Option(help="Fail if the rate of events changes by more than this factor.")
    ] = None,
    retries: Annotated[int, typer.Option(help="Retries on each device.")] = 0,
    job_timeout: Annotated[str, typer.Option(help="Time limit for each device, such as 15m.")] = "15m",
    deadline: Annotated[str, typer.Option(help="Time limit for the whole rollout.")] = "24h",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end; the exit status is 5 if the rollout fails.")
    ] = False,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Roll a version out to a device, a group or the whole fleet; each device gets the artifact of its target.

    Only devices that have a place for the model are updated; the others are listed. A tag, such as detector:stable,
    stands for the version that it names at that moment.
    """
    from edgec.fleet.client.connection import FleetClient, resolve
    from edgec.fleet.client.follow import RolloutFailed

    name, version = parse_model_version(model)
    plan: dict[str, Any] = {
        "stages": parse_stages(stages),
        "max_failed_percent": max_failed,
        "on_failure": on_failure,
        "rate_per_minute": rate,
        "retries": retries,
        "job_timeout_s": parse_duration(job_timeout),
        "deadline_s": parse_duration(deadline),
        "repair": repair,
    }
    criteria = {"latency_ratio": max_latency, "error_rate": max_errors, "event_rate_ratio": max_event_change}
    if any(value is not None for value in criteria.values()):
        plan["criteria"] = criteria
    scope = parse_scope(to, group, everyone)
    body = {"model": name, "version": version, "slot": slot or None, "scope": scope, "plan": plan}
    with FleetClient(*resolve(server, token)) as client:
        rollout = client.post("/rollouts", body)
        if wait:
            if not as_json:
                address = f"{client.server}/rollouts/{rollout['id']}"
                out.print(styled(f"rollout {rollout['id']} of ", (model, "bold"), f": {address}"))
            rollout = _watch(client, rollout["id"])
            rollout["members"] = said_by_devices(client, rollout["id"])
    if as_json:
        emit_json(rollout)
    elif not wait:
        out.print(styled(f"rollout {rollout['id']} of ", (model, "bold"), f" is {rollout['state']}"))
        out.print(f"follow it with: edgec fleet rollouts show {rollout['id']}")
    else:
        out.print(f"rollout {rollout['id']} {rollout['state']}: {rollout['reason']}")
        for member in rollout["members"][:20]:
            out.print(f"  {place(member)} {member['state'].lower().replace('_', ' ')}: {member['detail']}")
    if wait and rollout["state"] != "SUCCEEDED":
        raise RolloutFailed(
            f"rollout {rollout['id']} of {model} ended {rollout['state']}: {rollout['reason']}"
        )


def said_by_devices(client: Any, number: int) -> list[dict[str, Any]]:  # noqa: ANN401 - FleetClient, imported late
    """Return the members of a rollout that have something to say, those that failed first."""
    found = [row for row in client.pages(f"/rollouts/{number}/devices", limit=1000) if row["detail"]]
    order = ("FAILED", "REVERT_FAILED", "UNREACHED", "CANCELED", "SKIPPED")
    return sorted(found, key=lambda row: order.index(row["state"]) if row["state"] in order else len(order))


def place(member: dict[str, Any]) -> str:
    """Return a member's device, and its slot where that is known."""
    return f"{member['device']}/{member['slot']}" if member.get("slot") else str(member["device"])


def parse_stages(text: str) -> list[dict[str, Any]]:
    """Parse stages such as `5:10m,25,100`; `!` after a percentage requires approval before that stage.

    Raises:
        UsageError: A percentage is not a number, or the last one is not 100.
    """
    stages: list[dict[str, Any]] = []
    for item in text.split(","):
        share, _, soak = item.strip().partition(":")
        try:
            percent = float(share.rstrip("%!"))
        except ValueError as error:
            raise UsageError(f"{item!r} is not a stage: write a percentage, such as 5 or 5:10m") from error
        stages.append(
            {
                "percent": percent,
                "soak_s": parse_duration(soak) if soak else 0.0,
                "approval": share.endswith("!"),
            }
        )
    if stages[-1]["percent"] != 100:
        raise UsageError("the last stage must be 100, as a rollout reaches every device of its scope")
    return stages


def _watch(client: Any, rollout_id: int) -> dict[str, Any]:  # noqa: ANN401 - FleetClient, imported late
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from edgec.fleet.client.follow import follow

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[devices]}", markup=False),
        TimeElapsedColumn(),
    )
    rollout: dict[str, Any] = {}
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0, devices="")
        for rollout in follow(client, rollout_id):
            stage = f"stage {rollout['stage'] + 1}/{len(rollout['plan']['stages'])}"
            bar.update(
                task, completed=rollout["progress"], devices=_counts(rollout["devices"].items()),
                description=f"{rollout['state'].lower().replace('_', ' ')}, {stage}",
            )  # fmt: skip
    return rollout


def _counts(states: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{number} {state.lower().replace('_', ' ')}" for state, number in sorted(states))
