"""Targets of x86-64 that neither this machine nor qemu can stand for: values of their code beside those of other code.

    python -m edgec.benchmarks.arm.avx_vnni MODEL… [--target n100]

qemu translates no AVX-VNNI, so that the emulator of `n100` ends at the first product of 8-bit integers. Here the code
runs on this machine, whatever the artifact says about its processor, and a preloaded library carries out the
instructions of AVX-VNNI that trap (`avx_vnni.c`); any other that is lacking ends the run. Printed is the largest
difference, over ten inputs, from the artifact for this machine, which its own compile has verified, relative to the
largest value.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.runtime import compatibility
from edgec.targets import detect, load_target
from edgec.targets.detection import machine_features
from edgec.targets.target import Target

RUNS = 10


def library(folder: Path) -> Path:
    """Compile the library that is preloaded."""
    made = folder / "avx_vnni.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC", "-fno-sanitize=all"]
    subprocess.run([*command, "-o", str(made), str(Path(__file__).with_suffix(".c"))], check=True)
    return made


def outputs(artifact: Path, into: Path) -> None:
    """Run an artifact on ten inputs, whatever it says about the processor, and keep its outputs."""
    features = machine_features() | set(rt.Artifact.open(artifact).config.required_features)
    vars(compatibility)["machine_features"] = lambda: features
    rng = np.random.default_rng(0)
    kept: dict[str, NDArray[Any]] = {}
    with rt.load(artifact, threads=1) as model:
        for run in range(RUNS):
            inputs = {}
            for spec in model.inputs:
                kind, shape = np.dtype(spec.dtype), [int(size) for size in spec.shape]
                if kind.kind == "f":
                    inputs[spec.name] = rng.standard_normal(shape).astype(kind)
                else:
                    limits = np.iinfo(kind)
                    inputs[spec.name] = rng.integers(limits.min, limits.max, shape, kind, endpoint=True)
            kept |= {f"{run} {name}": array for name, array in model.run(inputs).items()}
    np.savez(into, allow_pickle=False, **kept)


def difference(model: Path, other: Target, folder: Path, preloaded: Path) -> float:
    """The largest difference between the outputs of both artifacts."""
    found = []
    for target in (detect(), other):
        options = CompileOptions(threads=1, tune="none", verify=target is not other)
        artifact = folder / f"{model.stem}-{target.name}.edge"
        compile_model(model, target, options, output=artifact)
        environment = os.environ | ({"LD_PRELOAD": str(preloaded)} if target is other else {})
        kept = artifact.with_suffix(".npz")
        subprocess.run(
            [sys.executable, "-m", __spec__.name, str(artifact), "--into", str(kept)],
            env=environment,
            check=True,
        )
        with np.load(kept) as arrays:
            found.append({name: arrays[name].astype(np.float64) for name in arrays.files})
    ours, theirs = found
    return max(float(np.abs(ours[name] - theirs[name]).max() / np.abs(ours[name]).max()) for name in ours)


def main() -> None:
    """Compare models, or run one artifact."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--target", default="n100")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.into is not None:
        outputs(arguments.models[0], arguments.into)
        return
    with tempfile.TemporaryDirectory(prefix="edgec-vnni-") as scratch:
        preloaded, other = library(Path(scratch)), load_target(arguments.target)
        for model in arguments.models:
            print(f"{model.stem}: {difference(model, other, Path(scratch), preloaded):g}")


if __name__ == "__main__":
    main()
