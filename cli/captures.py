"""`edgec captures`: frames that devices sent for retraining, their review and their export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import Json, Server, Token, file_to_write
from edgec.cli.console import ago, emit_json, out
from edgec.targets.errors import UsageError

app = typer.Typer(
    no_args_is_help=False,
    invoke_without_command=True,
    help="Review and export the frames that devices captured for retraining.",
)
Ids = Annotated[list[int], typer.Argument(help="Numbers of the captures.")]
Device = Annotated[str, typer.Option(help="Only captures of this device.")]


@app.callback()
def _default(
    context: typer.Context, server: Server = None, token: Token = None, as_json: Json = False
) -> None:
    if context.invoked_subcommand is None:
        list_captures(server=server, token=token, as_json=as_json)


@app.command("list")
def list_captures(
    state: Annotated[
        str, typer.Option(help="Only captures in this state: new, confirmed, corrected or discarded.")
    ] = "",
    device: Device = "",
    reason: Annotated[
        str,
        typer.Option(
            help="Only captures taken for this reason: low-confidence, disagreement, random or request."
        ),
    ] = "",
    limit: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of captures to list, newest first.")
    ] = 50,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """List captures and the storage used."""
    from rich.table import Table

    from edgec.fleet.client.connection import FleetClient, resolve

    with FleetClient(*resolve(server, token)) as client:
        answer = client.get("/captures", state=state, device=device, reason=reason, limit=limit)
        usage = client.get("/captures/usage")
    if as_json:
        emit_json({"items": answer["items"], "total": answer["total"], "usage": usage})
        return
    table = Table("capture", "device", "stream", "taken", "reason", "state", "found")
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
    numbers = ", ".join(f"{number} {name}" for name, number in usage["captures"].items())
    out.print(f"{numbers}; {usage['bytes'] / 1e6:.1f} of {usage['quota'] / 1e6:.0f} MB used")


def _found(row: dict[str, Any]) -> str:
    found = row["annotations"] if row["state"] == "corrected" else row["predictions"]
    return ", ".join(one["label"] for one in found[:4]) + (" …" if len(found) > 4 else "")


def _review(ids: list[int], body: dict[str, Any], server: str | None, token: str | None) -> None:
    from edgec.fleet.client.connection import FleetClient, resolve

    with FleetClient(*resolve(server, token)) as client:
        number = client.post("/captures/review", {"ids": ids, "review": body})["reviewed"]
    out.print(f"{number} {body['state']}")


@app.command("confirm")
def confirm(ids: Ids, server: Server = None, token: Token = None) -> None:
    """Confirm that the model's predictions are correct."""
    _review(ids, {"state": "confirmed"}, server, token)


@app.command("discard")
def discard(ids: Ids, server: Server = None, token: Token = None) -> None:
    """Delete the images permanently."""
    _review(ids, {"state": "discarded"}, server, token)


@app.command("correct")
def correct(
    capture: Annotated[int, typer.Argument(help="Number of the capture.")],
    annotations: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[LABEL[=LEFT,TOP,RIGHT,BOTTOM]]…",
            help="What the image shows; without any, it shows none of the model's classes.",
        ),
    ] = None,
    server: Server = None,
    token: Token = None,
) -> None:
    """Replace the model's predictions by what the image really shows."""
    body = {"state": "corrected", "annotations": [annotation(text) for text in annotations or []]}
    _review([capture], body, server, token)


def annotation(text: str) -> dict[str, Any]:
    """Return the annotation that `label` or `label=left,top,right,bottom` describes.

    Raises:
        UsageError: The box is not four numbers.
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


@app.command("export")
def export(
    output: Annotated[Path, typer.Argument(help="The file to write: a zip, or a table for csv.")],
    form: Annotated[
        str, typer.Option("--format", help="coco, yolo, folders (crops, one folder per class) or csv.")
    ] = "coco",
    device: Device = "",
    model: Annotated[str, typer.Option(help="Only captures of this model.")] = "",
    unreviewed: Annotated[
        bool, typer.Option("--unreviewed", help="Include new captures, with the model's own predictions.")
    ] = False,
    val_percent: Annotated[
        int, typer.Option(min=0, max=90, help="Percentage of captures in the validation set.")
    ] = 20,
    server: Server = None,
    token: Token = None,
) -> None:
    """Export confirmed and corrected captures for training.

    Class numbers are those of the model's label list. Validation is split off by device and hour, so that no picture,
    and no burst of nearly the same one, is on both sides.
    """
    from edgec.fleet.client.connection import FleetClient, resolve

    wanted: dict[str, Any] = {
        "format": form, "device": device, "model": model, "val_percent": val_percent,
        "unreviewed": str(unreviewed).lower(),
    }  # fmt: skip
    file_to_write(output)
    with FleetClient(*resolve(server, token)) as client:
        size = client.download("/captures/export", output, **wanted)
    out.print(f"wrote {output}, {size / 1e6:.1f} MB")
