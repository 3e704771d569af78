"""Run several artifacts and measure them, in a process with the runtime alone.

Started as `python -m edgec.compiler.verify.race_child REQUEST` by `edgec.compiler.verify.race`; REQUEST is a JSON file.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

RUNS = 60
EACH_S = 1.5  # of timed runs for each artifact
PROFILED = 5


def main(request_path: str) -> None:
    """Carry out a request and write its result."""
    sys.modules["tvm"] = None  # type: ignore[assignment]  # a device has none, and its memory would count
    import edgec.runtime as rt

    request: dict[str, Any] = json.loads(Path(request_path).read_text(encoding="utf-8"))
    with np.load(request["inputs"]) as file:
        inputs = {name: file[f"i{k}"] for k, name in enumerate(request["names"])}
    with ExitStack() as stack:
        models = {
            name: stack.enter_context(rt.load(path, threads=request["threads"]))
            for name, path in request["artifacts"].items()
        }
        result = _times(models, inputs) if request["times"] else _resident(models, inputs)
        Path(request["result"]).write_text(json.dumps(result), encoding="utf-8")


def _times(models: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    from edgec.compiler.verify.timing import time_in_blocks

    sides = {name: (lambda model=model: model.run(inputs)) for name, model in models.items()}
    measured = time_in_blocks(sides, runs=RUNS, limit_s=EACH_S * len(sides), warmup=2, rounds=3)
    return {
        name: measured[name].to_json()
        | {"layers": [dataclasses.asdict(one) for one in model.profile(inputs, repeats=PROFILED)]}
        for name, model in models.items()
    }


def _resident(models: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    for model in models.values():
        for _ in range(3):
            model.run(inputs)
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return dict.fromkeys(models, kib * 1024)


if __name__ == "__main__":
    main(sys.argv[1])
