"""Files of every format, damaged in their structure: each is a model or a message, never a traceback or a crash."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import random
import signal
from pathlib import Path

import pytest

from tests.compiler.frontends.fuzz import formats
from tests.compiler.frontends.fuzz.harness import Found, fuzz

NEEDED = {
    "tflite": ("ai_edge_litert", "data"), "xgboost": ("xgboost", "data"), "lightgbm": ("lightgbm", "data"),
    "sklearn": ("sklearn", "data"), "archives": ("torch",), "pt2": ("torch", "onnxscript"),
}  # fmt: skip
# What a loader imports, imported once before the forks. PyTorch is not: it would start threads.
LOADERS = {
    "onnx": ("relax.importer", "onnx.read"), "tflite": ("tflite.load",), "xgboost": ("trees.load",),
    "lightgbm": ("trees.load",), "sklearn": ("sklearn.load",),
}  # fmt: skip
# Importing these takes seconds, and counted as the first input's time in each process.
LIBRARIES = {"xgboost": ("xgboost",), "lightgbm": ("lightgbm",), "sklearn": ("sklearn.ensemble", "skl2onnx")}
COUNTS = {
    "onnx": 150,
    "tflite": 150,
    "xgboost": 200,
    "lightgbm": 200,
    "sklearn": 60,
    "archives": 200,
    "pt2": 0,
}
MANY = {"pt2": 2_000}  # torch.export.load takes a tenth of a second
LONG_S = float(os.environ.get("EDGEC_FUZZ_S", "inf"))


def run(kind: str, folder: Path, count: int, seed: int, limit_s: float = 1e9) -> Found:
    if kind == "artifact":
        made = functools.partial(formats.artifact, str(folder))
        return fuzz(formats.damaged_artifact(made), formats.open_artifact, count, seed, limit_s)
    guards = formats.GUARDED.get(kind), formats.WITHOUT_PEER.get(kind)
    return fuzz(*formats.FORMATS[kind], count, seed, limit_s, *guards)


def warmed(kind: str, folder: Path) -> None:
    """Import and build what every process of the fuzzer would otherwise import and build."""
    for needed in NEEDED.get(kind, ()):
        if needed == "data":
            if not (formats.shared() / "MANIFEST.md").is_file():
                pytest.skip("the real test data is not here; set EDGEC_DATA to it")
        elif importlib.util.find_spec(needed) is None:
            pytest.skip(f"optional: {needed} is not installed")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for files of kilobytes, threads cost more than they gain
    for library in LIBRARIES.get(kind, ()):  # importing starts no threads; a first use does, after the fork
        importlib.import_module(library)
    for module in LOADERS.get(kind, ()):
        importlib.import_module(f"edgec.compiler.frontends.{module}")
    samples = {"tflite": formats.tflite_samples, "onnx": formats.onnx_samples, "artifact": None}
    make = samples.get(kind, formats.archives if kind in ("archives", "pt2") else formats.trees)
    _ = formats.artifact(str(folder)) if make is None else make()


@pytest.mark.parametrize("kind", [*(k for k, n in COUNTS.items() if n), "artifact"])
def test_damaged_files_are_models_or_messages(kind: str, tmp_path: Path) -> None:
    warmed(kind, tmp_path)
    found = run(kind, tmp_path, COUNTS.get(kind, 200), seed=1)
    assert not found.bad, found.told
    assert found.outcomes["refused"] > found.inputs // 20


@pytest.mark.parametrize("ours", [False, True])
def test_a_crash_of_the_reference_is_told_from_one_of_the_loader(ours: bool) -> None:
    def named(rng: random.Random, folder: Path) -> Path:
        return folder / ("crash" if rng.random() < 0.5 else "fine")

    def crash(path: Path) -> None:
        if path.name == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)

    found = fuzz(named, crash, 8, seed=1, without_peer=crash if ours else str)
    kind = "crash" if ours else "crash of the reference"
    assert found.inputs == 8
    assert 0 < found.outcomes[kind] == 8 - found.outcomes["loaded"]
    assert bool(found.bad) == ours


@pytest.mark.long
@pytest.mark.timeout(0)  # every input has its own limit
@pytest.mark.parametrize("kind", [*COUNTS, "artifact"])
def test_many_damaged_files_are_models_or_messages(kind: str, tmp_path: Path) -> None:
    warmed(kind, tmp_path)
    seed = int.from_bytes(os.urandom(4), "big")
    found = run(kind, tmp_path, MANY.get(kind, 100_000), seed, LONG_S)
    print(f"{kind}: seed {seed}, {found.told}")
    assert not found.bad, found.told
