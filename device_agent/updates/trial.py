"""The trial run of a new model, in a process of its own, so that a crash or hang affects nothing else.

Started as `python -m edgec.device_agent.updates.trial`. Loads the model as the inference process will, runs it on
the golden input, and checks that the outputs are finite and reproducible, and that they match those in the artifact's
evidence, if it has any.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import edgec.runtime as rt
from edgec.device_agent.inference.slots import MODEL_ERRORS, load_model
from edgec.device_agent.process import child, log
from edgec.device_agent.process.channel import ChannelClosed
from edgec.device_agent.updates.messages import START_TRIAL, TrialResult
from edgec.runtime.artifact.golden import GOLDEN_KEY, Arrays, differences, golden_inputs
from edgec.runtime.errors import IncompatibleDevice

_RUNS = 5


class TrialFailed(RuntimeError):
    """The model runs, but its outputs are wrong."""


def try_model(path: str, digest: str, threads: int | None) -> TrialResult:
    """Run the model; returns its name, version and speed.

    Raises:
        EdgecError: it cannot be loaded on this device.
        TrialFailed: its outputs are not finite, not reproducible, or not those of the evidence.
    """
    begin = time.perf_counter()
    loaded = load_model(path, digest, threads)
    load_s = time.perf_counter() - begin
    inputs = golden_inputs(loaded.model.inputs)
    first = loaded.model.run(inputs)
    for name, value in first.items():
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise TrialFailed(f"output {name} contains values that are not finite")
    times = []
    for _ in range(_RUNS):
        begin = time.perf_counter()
        again = loaded.model.run(inputs)
        times.append((time.perf_counter() - begin) * 1000)
        for name, value in first.items():
            if not np.allclose(value, again[name], rtol=1e-3, atol=1e-5):
                raise TrialFailed(f"output {name} differs from run to run on the same input")
    return TrialResult(
        golden=_compare(path, digest, first),
        name=loaded.name,
        version=loaded.version,
        load_s=round(load_s, 3),
        latency_ms=round(float(np.median(times)), 3),
    )


def _compare(path: str, digest: str, outputs: Arrays) -> str:
    """Compare the outputs with the compiler's; returns what was compared, for the log.

    Raises:
        TrialFailed: the outputs differ, or the evidence is malformed.
    """
    evidence = rt.Artifact.open(path, digest=digest).evidence() or {}
    golden = evidence.get(GOLDEN_KEY)
    if golden is None:
        return "no outputs to compare with"
    try:
        off = differences(golden, outputs)
    except (KeyError, TypeError, ValueError) as error:
        raise TrialFailed(
            f"the artifact's evidence is malformed ({type(error).__name__}: {error})"
        ) from error
    if off:
        raise TrialFailed(f"its outputs differ from those at compile time: {off[0]}")
    return f"{len(golden['outputs'])} outputs match those at compile time"


def main() -> None:
    """Entry of the process."""
    log.set_up()
    channel = child.enter(sys.argv[1:])
    try:
        start, _ = channel.receive(START_TRIAL)
        try:
            result = try_model(start.path, start.digest, start.threads)
        except IncompatibleDevice as error:
            result = TrialResult(error=str(error), incompatible=True)
        except MODEL_ERRORS as error:
            result = TrialResult(error=f"{type(error).__name__}: {error}"[:1000])
        channel.send(result)
    except ChannelClosed:
        sys.exit(0)


if __name__ == "__main__":
    main()
