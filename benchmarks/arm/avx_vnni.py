"""Models in int8 for AVX-VNNI (`n100`), run on a processor with AVX2 alone: their values beside those of other code.

    python -m edgec.benchmarks.arm.avx_vnni MODEL…

qemu translates no AVX-VNNI, so that the emulator of `n100` ends at the first product. Here the code runs on this
machine, and a preloaded library carries out the instructions that trap (`avx_vnni.c`). Printed is the largest
difference, over ten inputs, from the artifact for this machine, which its own compile has verified.
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

RUNS = 10
TARGET = "n100"


def library(folder: Path) -> Path:
    """Compile the library that is preloaded."""
    made = folder / "avx_vnni.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC", "-fno-sanitize=all"]
    subprocess.run([*command, "-o", str(made), str(Path(__file__).with_suffix(".c"))], check=True)
    return made


def outputs(artifact: Path, into: Path) -> None:
    """Run an artifact on ten inputs, whatever it says about the processor, and keep its outputs."""
    features = load_target(TARGET).features | machine_features()
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


def difference(model: Path, folder: Path, preloaded: Path) -> float:
    """The largest difference between the outputs of both artifacts."""
    found = []
    for target in (detect(), load_target(TARGET)):
        options = CompileOptions(threads=1, tune="none", verify=target.name != TARGET)
        artifact = folder / f"{model.stem}-{target.name}.edge"
        compile_model(model, target, options, output=artifact)
        environment = os.environ | ({"LD_PRELOAD": str(preloaded)} if target.name == TARGET else {})
        kept = artifact.with_suffix(".npz")
        subprocess.run(
            [sys.executable, "-m", __spec__.name, str(artifact), "--into", str(kept)],
            env=environment,
            check=True,
        )
        with np.load(kept) as arrays:
            found.append({name: arrays[name].astype(np.float64) for name in arrays.files})
    ours, theirs = found
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def main() -> None:
    """Compare models, or run one artifact."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.into is not None:
        outputs(arguments.models[0], arguments.into)
        return
    with tempfile.TemporaryDirectory(prefix="edgec-vnni-") as scratch:
        preloaded = library(Path(scratch))
        for model in arguments.models:
            print(f"{model.stem}: {difference(model, Path(scratch), preloaded):g}")


if __name__ == "__main__":
    main()
