"""Hardware descriptions: what code is compiled for, and what a loader checks before it runs it.

A name is imported when it is first asked for: a device that runs a model reads no description of a target.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgec.targets.detection import machine_arch, machine_features, machine_glibc, usable_cores
    from edgec.targets.errors import BadTargetFile, EdgecError, UnknownTarget, UsageError
    from edgec.targets.loader import detect, list_targets, load_target
    from edgec.targets.target import Target

_MODULES = {
    "detection": ("machine_arch", "machine_features", "machine_glibc", "usable_cores"),
    "errors": ("BadTargetFile", "EdgecError", "UnknownTarget", "UsageError"),
    "loader": ("detect", "list_targets", "load_target"),
    "target": ("Target",),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """Import what is asked for."""
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
    "list_targets",
    "load_target",
    "machine_arch",
    "machine_features",
    "machine_glibc",
    "usable_cores",
]
