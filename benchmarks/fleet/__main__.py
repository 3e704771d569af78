"""`python -m edgec.benchmarks.fleet MEASUREMENT`: one measurement, as a JSON line, appended to a file if given."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgec.benchmarks.fleet import measure
from edgec.benchmarks.fleet.stage import stage


def _run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    if options.what == "blobs":
        from edgec.benchmarks.fleet.blobs import blobs

        return blobs(folder, options.megabytes)
    with stage(options.backend, folder, options.devices, options.servers) as place:
        if options.what == "ingest":
            return measure.ingest(place, options.rate, options.seconds, options.devices)
        if options.what == "scale":
            return measure.scale(place, options.devices, options.seconds)
        return measure.rollout(place, options.devices, options.failing, options.seconds)


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m edgec.benchmarks.fleet")
    parser.add_argument("what", choices=("ingest", "scale", "rollout", "blobs"))
    parser.add_argument("--backend", choices=("embedded", "external"), default="external")
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3000.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--failing", type=float, default=0.03)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgec-bench-") as folder:
        result = {"what": options.what, **_run(options, Path(folder))}
    line = json.dumps(result)
    sys.stdout.write(line + "\n")
    if options.output:
        with options.output.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


if __name__ == "__main__":
    main()
