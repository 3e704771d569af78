"""`edgec experiments`: compare a candidate version with the one that devices run."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from edgec.cli.arguments import Json, Server, Token, parse_duration, parse_model_version, parse_scope
from edgec.cli.console import ago, emit_json, out, styled
from edgec.targets.errors import UsageError

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
    max_latency: Annotated[
        float | None, typer.Option(help="Tolerated latency, as a factor of the own model's. [default: 1.25]")
    ] = None,
    max_errors: Annotated[
        float | None,
        typer.Option(help="Tolerated increase of the share of failed inferences. [default: 0.01]"),
    ] = None,
    max_disagreement: Annotated[
        float | None,
        typer.Option(help="Share of frames on which alike models may differ (shadow). [default: 0.1]"),
    ] = None,
    max_score_change: Annotated[
        float | None, typer.Option(help="Change of the mean score that alike models may show. [default: 0.1]")
    ] = None,
    max_results_change: Annotated[
        float | None,
        typer.Option(help="Factor in results a frame that alike models may show (A/B). [default: 1.5]"),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME:higher|lower:TOLERANCE",
            help="A metric that makes the candidate worse if it moves the wrong way, such as score:higher:0.05 or "
            "results:higher:1.2.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="A criterion to leave out: latency, errors, disagreement, score or results."),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Probability of a wrong verdict, at most. [default: 0.05]")
    ] = None,
    capture: Annotated[
        bool,
        typer.Option(
            "--capture",
            help="Let devices send pictures on which the two differ, to review which one is right.",
        ),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end.")] = False,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Start comparing a candidate with the model that devices run.

    A candidate is worse if it is slower, fails more often, is behind in a --metric, or is contradicted by reviewed
    captures. Other differences only say that it differs.
    """
    from edgec.fleet.client.connection import FleetClient, resolve

    name, version = parse_model_version(model)
    body = {
        "mode": mode, "model": name, "version": version, "slot": slot or None,
        "scope": parse_scope(to, in_group, everyone),
        "plan": {
            "share": share / 100, "duration_s": parse_duration(duration), "capture": capture,
            "criteria": criteria(
                ignore or [], metrics or [], latency_ratio=max_latency, error_rate=max_errors,
                disagreement=max_disagreement, score_shift=max_score_change, results_ratio=max_results_change,
                alpha=alpha,
            ),
        },
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


_CRITERIA = {
    "latency": "latency_ratio", "errors": "error_rate", "disagreement": "disagreement", "score": "score_shift",
    "results": "results_ratio",
}  # fmt: skip


def criteria(ignore: list[str], metrics: list[str], **tolerances: float | None) -> dict[str, Any]:
    """Return the criteria that the options describe; what none of them mentions is left to the server.

    Raises:
        UsageError: an option names no criterion, or is not of its form.
    """
    found: dict[str, Any] = {name: value for name, value in tolerances.items() if value is not None}
    for name in ignore:
        if name not in _CRITERIA:
            raise UsageError(f"--ignore {name!r}: there are {', '.join(_CRITERIA)}")
        found[_CRITERIA[name]] = None
    directed = []
    for text in metrics:
        name, _, rest = text.partition(":")
        better, _, tolerance = rest.partition(":")
        try:
            directed.append({"name": name, "better": better, "tolerance": float(tolerance)})
        except ValueError as error:
            raise UsageError(
                f"--metric {text!r}: write NAME:higher:TOLERANCE, as in score:higher:0.05"
            ) from error
        if name not in ("score", "results") or better not in ("higher", "lower"):
            raise UsageError(
                f"--metric {text!r}: score or results, then higher or lower, then what is tolerated"
            )
    return found | ({"metrics": directed} if directed else {})


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
        name += f" ({one['better']} is better)" if one.get("better") else ""
        table.add_row(name, measured, f"{one['tolerated']:g}", str(one["readings"]), evidence, one["verdict"])
    out.print(table)
    labels = row.get("labels")
    if labels and labels["pictures"]:
        own, candidate = (
            f"{labels[key]:.1%}" if labels[key] is not None else "-" for key in ("own", "candidate")
        )
        right = f"the {labels['right']} model is right" if labels["right"] else "not decided yet"
        sure = f" ({labels['confidence']:.2%} confidence)" if labels["right"] else ""
        out.print(
            f"{labels['pictures']} reviewed pictures agree with the own model by {own}, with the candidate by "
            f"{candidate}: {right}{sure}"
        )
