"""Compiled networks of the suite, in a folder that a later run can measure again."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgec.benchmarks.networks.catalogue import INT8, Network
from edgec.compiler.options import CompileOptions
from edgec.targets.target import Target


@dataclass(frozen=True)
class Compiled:
    """A compiled network, with the files that its measurement needs beside the artifact."""

    artifact: Path
    reference: Path  # the model for the other runtimes
    inputs: Path
    source: Path | None = None  # the model as it came
    seconds: float = 0.0
    cpu_s: float = 0.0
    tune: str = ""
    failure: str = ""
    quantised: bool = False

    @staticmethod
    def of(folder: Path, name: str, threads: int) -> Compiled:
        """Look up a network in `folder`; `tune` is empty when it was not compiled there."""
        found = Compiled(folder / f"{name}-{threads}.edge", folder / f"{name}.onnx", folder / f"{name}.npz")
        try:
            known = json.loads(found.record.read_text(encoding="utf-8"))
            return replace(found, **known | {"source": Path(known["source"])})
        except (OSError, ValueError, TypeError, KeyError):
            return found

    @property
    def record(self) -> Path:
        """The file with the fields that the artifact does not hold."""
        return self.artifact.with_suffix(".json")


def compile_network(network: Network, target: Target, options: CompileOptions, folder: Path) -> Compiled:
    """Compile a network with its inputs and reference into `folder`, unless it exists already."""
    from edgec.compiler.frontends import load_source
    from edgec.compiler.pipeline import compile_model
    from edgec.compiler.verify.reference import is_quantised
    from edgec.targets.errors import EdgecError

    made = Compiled.of(folder, network.name, options.threads or 1)
    if made.tune:
        return made
    made = replace(made, tune=options.tune)
    options = replace(options, input_shapes=network.shapes)
    try:
        model = network.model(folder)
        made = replace(made, source=model.resolve())
        start, cpu = time.perf_counter(), cpu_seconds()
        compile_model(model, target, options, output=made.artifact)
        made = replace(made, seconds=time.perf_counter() - start, cpu_s=cpu_seconds() - cpu)
        source = load_source(model, options)
    except EdgecError as error:
        made = replace(made, failure=str(error))
    else:
        np.savez(made.inputs, **_sample_inputs(network, source))
        made.reference.write_bytes(source.reference.SerializeToString())
        made = replace(made, quantised=is_quantised(source.reference))
    known = {
        "seconds": made.seconds,
        "cpu_s": made.cpu_s,
        "source": str(made.source or ""),
        "tune": made.tune,
        "failure": made.failure,
        "quantised": made.quantised,
    }
    made.record.write_text(json.dumps(known), encoding="utf-8")
    return made


def cpu_seconds() -> float:
    """Seconds that this process and its children computed: what a compile costs, however busy the machine is."""
    return sum(os.times()[:4])


def _sample_inputs(network: Network, source: Any) -> dict[str, Any]:  # noqa: ANN401  (a SourceModel; importing it loads onnx)
    """The zoo's sample inputs; for other models normal numbers, any bytes for int8, and ones for other integers."""

    from edgec.models import sample_inputs

    if network.path is None:
        return dict(sample_inputs(network.name.removesuffix(f"-{INT8}")))
    rng = np.random.default_rng(0)

    def numbers(shape: tuple[int, ...], dtype: str) -> Any:  # noqa: ANN401 - an array of the type
        if dtype.startswith("float"):
            return rng.standard_normal(shape).astype(dtype)
        if dtype in ("int8", "uint8"):
            return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape).astype(dtype)
        return np.ones(shape, dtype)

    return {port.name: numbers(port.shape, port.dtype) for port in source.inputs}
