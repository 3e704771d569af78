"""Hardware descriptions: what code is compiled for, and what a loader checks before it runs it."""

from edgec.targets.detection import machine_arch, machine_features, machine_glibc, usable_cores
from edgec.targets.errors import BadTargetFile, EdgecError, UnknownTarget, UsageError
from edgec.targets.loader import detect, list_targets, load_target
from edgec.targets.target import Target

__all__ = [
    "BadTargetFile",
    "EdgecError",
    "Target",
    "UnknownTarget",
    "UsageError",
    "detect",
    "list_targets",
    "load_target",
    "machine_arch",
    "machine_features",
    "machine_glibc",
    "usable_cores",
]
