"""`edgec demo`: from a model to a live device that updates itself, all on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    camera: Annotated[
        str | None,
        typer.Option(help="Camera number, stream address or video file. [default: a generated video]"),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="An .onnx file of your own with its model.toml. [default: the zoo's detector]"),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Keep everything running at the end, until Ctrl-C.")
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=2, max=3600, help="Time to watch each version, in seconds.")
    ] = 8.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the final summary as JSON.")] = False,
) -> None:
    """Compile a detector, start a fleet and a device, and update the device while it runs.

    Everything uses loopback addresses and a temporary folder; nothing is left behind.
    """
    from edgec.cli.demo.story import Options, tell

    tell(Options(camera=camera, model=model, serve=serve, watch_s=seconds, as_json=as_json))
