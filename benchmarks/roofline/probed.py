"""Probes of this machine's speed, run with the same instructions and threads as an artifact's kernels."""

from __future__ import annotations

import importlib.util

from edgec.benchmarks.roofline.profile import Machine
from edgec.runtime import ArtifactConfig
from edgec.targets import UnknownTarget, detect, load_target


def probed_machine(config: ArtifactConfig, threads: int) -> tuple[Machine | None, int]:
    """Return the probes for an artifact's kernels, and the number of threads to run both with.

    The machine is None if the compiler, which builds the probes, is not installed, if the artifact's target is not
    known here (a target file of the user's own), or if this machine cannot run it.
    """
    if config.threads == 1:
        threads = 1  # such kernels have no parallel loops
    if importlib.util.find_spec("tvm") is None:
        return None, threads
    from edgec.benchmarks.roofline.peak import LOOP_REACHES, BandwidthProbe, PeakProbe, SpeedProbe
    from edgec.compiler.backends.registry import backend_of

    try:
        target = load_target(config.target)
    except UnknownTarget:
        return None, threads
    if not backend_of(target).can_time:
        return None, threads
    if config.threads is None and target.cores == 1:
        threads = 1
    speed, peak = SpeedProbe(target, threads), PeakProbe(target, threads)
    reach = LOOP_REACHES if target.arch == "x86_64" else 0.0
    return Machine(speed, peak, BandwidthProbe(target, detect(), threads), reach), threads
