"""Probes of this machine's speed, run with the same instructions and threads as an artifact's kernels."""

from __future__ import annotations

import importlib.util

from edgec.runtime import ArtifactConfig
from edgec.targets import UnknownTarget, load_target
from edgec.targets.measured_rates import Machine


def probed_machine(config: ArtifactConfig, threads: int) -> tuple[Machine | None, int]:
    """Return the probes for an artifact's kernels, and the number of threads to run both with.

    The machine is None if the compiler, which builds the probes, is not installed, if the artifact's target is not
    known here (a target file of the user's own), or if this machine cannot run it.
    """
    if config.threads == 1:
        threads = 1  # such kernels have no parallel loops
    if importlib.util.find_spec("tvm") is None:
        return None, threads
    from edgec.compiler.backends.registry import backend_of

    try:
        target = load_target(config.target)
    except UnknownTarget:
        return None, threads
    backend = backend_of(target)
    if not backend.can_time:
        return None, threads
    if config.threads is None and target.cores == 1:
        threads = 1
    return backend.probes(threads), threads
