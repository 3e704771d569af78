"""Prepare and run the proof on a GPU that the processor emulates, behind the driver of the tests: small networks.

    python -m tests.benchmarks.gpu.emulated FOLDER [--networks …] [--precisions …] [--batches …]

Everything but the kernels' compiler, the driver and the size of pictures is as on a GPU: the command of the folder runs
in processes of its own, which find the driver as `libcuda.so.1`.
"""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from edgec.benchmarks.gpu.plan import NETWORKS
from edgec.benchmarks.gpu.prepare import prepare
from edgec.models.graph import Graph
from edgec.models.zoo import transformer, yolo
from edgec.targets.device_kinds import DEVICE_KINDS

ROOT = Path(__file__).parents[3]
SIDE = 32  # of pictures; 64 for detectors
_DRIVER = ROOT / "tests" / "runtime" / "gpu" / "driver.c"
_BACKEND = "tests.compiler.backends.cuda.emulator.backend:EmulatedBackend"
# Sizes that follow from the picture's, or the length of a text.
_CHANGED: dict[str, list[tuple[str, str]]] = {
    "vit_tiny": [("224", "32"), ("197", "5"), ("196", "4")],
    "bert_mini": [("128, 256, 4", "16, 256, 4")],
}


def make_driver(folder: Path) -> Path:
    """Build `libcuda.so.1` in a folder."""
    made = folder / "libcuda.so.1"
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-o", made, _DRIVER]
    subprocess.run(command, check=True)
    return made


@contextmanager
def small() -> Iterator[None]:
    """The zoo's networks take small pictures and short texts, and kernels are compiled for the emulator."""
    given = Graph.input

    def shrunk(graph: Graph, name: str, shape: tuple[int, ...], *dtype: int) -> Any:
        picture = len(shape) == 4 and shape[1] == 3 and shape[2] > 64
        return given(graph, name, (*shape[:2], SIDE, SIDE) if picture else shape, *dtype)

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(Graph, "input", shrunk))
        patches.enter_context(mock.patch.dict(DEVICE_KINDS["cuda"], backend=_BACKEND))
        patches.enter_context(mock.patch.object(yolo, "at_320", lambda graph: yolo._yolov8n(graph, 64)))
        for name, changes in _CHANGED.items():
            source = inspect.getsource(getattr(transformer, name))
            for old, new in changes:
                assert old in source, f"{name} has no {old}"
                source = source.replace(old, new)
            space = dict(vars(transformer))
            exec(source, space)
            patches.enter_context(mock.patch.object(transformer, name, space[name]))
        yield


# The emulator takes longer than a GPU.
_PATIENT = """
import sys
from edgec.benchmarks.gpu import __main__, run
run._LIMITS_S = dict.fromkeys(run._LIMITS_S, float(sys.argv.pop(1)))
__main__.main()
"""


def run_folder(folder: Path, driver: Path, out: Path, limit_s: float = 60.0, **environment: str) -> None:
    """Run a prepared folder as its script does, which prints what each case gave.

    Args:
        folder: filled by `prepare`.
        driver: its libcuda.so.1.
        out: file of results.
        limit_s: of a step.
        environment: variables beside those of this process.
    """
    variables = {**os.environ, "LD_LIBRARY_PATH": str(driver.parent), **environment}
    command = [sys.executable, "-c", _PATIENT, str(limit_s), "run", str(folder), "--out", str(out)]
    subprocess.run(command, env=variables, check=True)


# PyTorch's calls for a GPU, on the processor; max-autotune would take minutes a network.
_TORCH = """
import torch
torch.cuda.is_available = lambda: True
torch.cuda.synchronize = lambda: None
torch.Tensor.cuda = torch.nn.Module.cuda = lambda self: self
torch.compile = lambda call, mode: call
"""


def torch_beside(folder: Path) -> dict[str, str]:
    """Variables with which a process finds a GPU in PyTorch."""
    (folder / "sitecustomize.py").write_text(_TORCH)
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, run, and print the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--precisions", default="fp16")
    parser.add_argument("--batches", default="1")
    given = parser.parse_args(arguments)
    names, precisions = given.networks.split(","), given.precisions.split(",")
    batches = [int(one) for one in given.batches.split(",")]
    with small():
        prepare(given.folder, "l4", names, precisions, 7200, lambda line: print(line, flush=True),
                batches=batches, wheels=False)  # fmt: skip
    out = given.folder / "results.json"
    run_folder(given.folder, make_driver(given.folder), out, 1200.0, **torch_beside(given.folder))
    subprocess.run([sys.executable, "-m", "edgec.benchmarks.gpu", "page", str(out)], check=True)


if __name__ == "__main__":
    main()
