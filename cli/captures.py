"""``edgec samples``: pictures that devices sent for retraining, reviewed and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.console import emit_json, out
from edgec.cli.devices import ago
from edgec.cli.push import Json, Server, Token
from edgec.targets.errors import UsageError

group = typer.Typer(
    no_args_is_help=False, invoke_without_command=True, help="Review and export captured samples."
)
Ids = Annotated[list[int], typer.Argument(help="Numbers of samples.")]
Device = Annotated[str, typer.Option(help="Of this device.")]


def register(app: typer.Typer) -> None:
    """Add the command group; without a sub-command it lists."""
    app.add_typer(group, name="samples")


@group.callback()
def _default(
    context: typer.Context, server: Server = None, token: Token = None, as_json: Json = False
) -> None:
    if context.invoked_subcommand is None:
        list_samples(server=server, token=token, as_json=as_json)


@group.command("list")
def list_samples(
    state: Annotated[str, typer.Option(help="new, confirmed, corrected or discarded.")] = "",
    device: Device = "",
    reason: Annotated[str, typer.Option(help="low-confidence, disagreement, random or request.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most, newest first.")] = 50,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """List samples, and how much of the quota is used."""
    from rich.table import Table

    from edgec.fleet.client.connection import FleetClient, resolve

    with FleetClient(*resolve(server, token)) as client:
        answer = client.get("/samples", state=state, device=device, reason=reason, limit=limit)
        usage = client.get("/samples/usage")
    if as_json:
        emit_json({"items": answer["items"], "total": answer["total"], "usage": usage})
        return
    table = Table("sample", "device", "stream", "taken", "why", "state", "found")
    for row in answer["items"]:
        table.add_row(
            str(row["id"]),
            row["device"],
            row["stream"],
            ago(row["at"]),
            row["reason"],
            row["state"],
            _found(row),
        )
    if answer["items"]:
        out.print(table)
    numbers = ", ".join(f"{number} {name}" for name, number in usage["samples"].items())
    out.print(f"{numbers}; {usage['bytes'] / 1e6:.1f} of {usage['quota'] / 1e6:.0f} MB used")


def _found(row: dict[str, Any]) -> str:
    found = row["annotations"] if row["state"] == "corrected" else row["predictions"]
    return ", ".join(one["label"] for one in found[:4]) + (" …" if len(found) > 4 else "")


def _review(ids: list[int], body: dict[str, Any], server: str | None, token: str | None) -> None:
    from edgec.fleet.client.connection import FleetClient, resolve

    with FleetClient(*resolve(server, token)) as client:
        number = client.post("/samples/review", {"ids": ids, "review": body})["reviewed"]
    out.print(f"{number} {body['state']}")


@group.command("confirm")
def confirm(ids: Ids, server: Server = None, token: Token = None) -> None:
    """Say that the model was right."""
    _review(ids, {"state": "confirmed"}, server, token)


@group.command("discard")
def discard(ids: Ids, server: Server = None, token: Token = None) -> None:
    """Remove the pictures, for good."""
    _review(ids, {"state": "discarded"}, server, token)


@group.command("correct")
def correct(
    sample: Annotated[int, typer.Argument(help="Number of the sample.")],
    annotations: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LABEL[=LEFT,TOP,RIGHT,BOTTOM]]…", help="What is in it; nothing means nothing is."
        ),
    ] = None,
    server: Server = None,
    token: Token = None,
) -> None:
    """Say what is in the picture instead."""
    body = {"state": "corrected", "annotations": [annotation(text) for text in annotations or []]}
    _review([sample], body, server, token)


def annotation(text: str) -> dict[str, Any]:
    """An annotation from ``label`` or ``label=left,top,right,bottom``.

    Raises:
        UsageError: the box is not four numbers.
    """
    label, _, box = text.partition("=")
    if not box:
        return {"label": label}
    try:
        numbers = [float(item) for item in box.split(",")]
    except ValueError as error:
        raise UsageError(f"{text!r}: a box is four numbers, as in person=12,30,80,200") from error
    if len(numbers) != 4:
        raise UsageError(f"{text!r}: a box is four numbers, as in person=12,30,80,200")
    return {"label": label, "box": numbers}


@group.command("export")
def export(
    output: Annotated[Path, typer.Argument(help="The zip to write.")],
    form: Annotated[str, typer.Option("--format", help="coco, yolo or folders (one per class).")] = "coco",
    device: Device = "",
    model: Annotated[str, typer.Option(help="Of this model.")] = "",
    unreviewed: Annotated[
        bool, typer.Option("--unreviewed", help="New ones too, as the model saw them.")
    ] = False,
    val_percent: Annotated[int, typer.Option(min=0, max=90, help="Share to validate with.")] = 20,
    server: Server = None,
    token: Token = None,
) -> None:
    """Write confirmed and corrected samples as a zip for training."""
    from edgec.fleet.client.connection import FleetClient, resolve

    wanted: dict[str, Any] = {
        "format": form, "device": device, "model": model, "val_percent": val_percent,
        "unreviewed": str(unreviewed).lower(),
    }  # fmt: skip
    with FleetClient(*resolve(server, token)) as client:
        size = client.download("/samples/export", output, **wanted)
    out.print(f"wrote {output}, {size / 1e6:.1f} MB")
