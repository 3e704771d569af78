"""Hardware descriptions: what code is compiled for, and what a loader checks before it runs it.

Names are imported on first use: a device that only runs a model never reads a target file.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgec.targets.detection import machine_arch, machine_features, machine_glibc, usable_cores
    from edgec.targets.errors import BadTargetFile, EdgecError, UnknownTarget, UsageError
    from edgec.targets.loader import detect, detect_other, list_targets, load_target
    from edgec.targets.target import Target

_MODULES = {
    "detection": ("machine_arch", "machine_features", "machine_glibc", "usable_cores"),
    "errors": ("BadTargetFile", "EdgecError", "UnknownTarget", "UsageError"),
    "loader": ("detect", "detect_other", "list_targets", "load_target"),
    "target": ("Target",),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """Import a name on first use."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


__all__ = [
    "BadTargetFile",
    "EdgecError",
    "Target",
    "UnknownTarget",
    "UsageError",
    "detect",
    "detect_other",
    "list_targets",
    "load_target",
    "machine_arch",
    "machine_features",
    "machine_glibc",
    "usable_cores",
]
