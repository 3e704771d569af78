"""Which back end compiles for a target: found by the target's `device_kind`."""

from __future__ import annotations

from importlib import import_module

from edgec.compiler.backends.interface import Backend
from edgec.compiler.errors import NoBackend
from edgec.targets import Target
from edgec.targets.device_kinds import DEVICE_KINDS


def backend_of(target: Target) -> Backend:
    """The back end for a target; its module is imported now.

    Raises:
        NoBackend: none is registered for the target's kind of device.
    """
    kind = DEVICE_KINDS.get(target.device_kind)
    if kind is None:
        known = ", ".join(sorted(DEVICE_KINDS))
        raise NoBackend(f"{target.name} is a {target.device_kind} device; this edgec compiles for: {known}")
    module, name = kind["backend"].split(":")
    made = getattr(import_module(module), name)(target)
    if not isinstance(made, Backend):
        raise TypeError(f"{kind['backend']}, registered for {target.device_kind}, is no Backend")
    return made
