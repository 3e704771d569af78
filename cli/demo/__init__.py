"""``edgec demo``: the whole way from a model to a live, updating device, on this machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    camera: Annotated[
        str | None,
        typer.Option(help="A camera's number, a stream's address or a video file. [default: a made video]"),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Your own .onnx file with a model.toml beside it. [default: the zoo's detector]"),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Keep everything running afterwards, until Ctrl-C.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=2, max=3600, help="How long to watch each version.")] = 8.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON at the end.")] = False,
) -> None:
    """Compile, verify, serve, enroll, detect, and update the device while it runs.

    Everything happens on loopback addresses and in a temporary folder; nothing stays behind.
    """
    from edgec.cli.demo.story import Wishes, tell

    tell(Wishes(camera=camera, model=model, serve=serve, watch_s=seconds, as_json=as_json))
