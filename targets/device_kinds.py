"""The kinds of devices: for each the class that compiles for it and the one that runs what was compiled.

Names only, so that a device without the compiler can read them; nothing is imported before it is used. Support for
another kind of hardware is registered by a line here.
"""

from __future__ import annotations

from typing import NamedTuple


class DeviceKind(NamedTuple):
    """Both halves of the support for a kind of hardware, as `module:class`."""

    backend: str  # an edgec.compiler.backends.interface.Backend
    device: str  # an edgec.runtime.device.Device


DEVICE_KINDS = {
    "cpu": DeviceKind("edgec.compiler.backends.cpu.backend:CpuBackend", "edgec.runtime.cpu_device:CpuDevice"),
}
