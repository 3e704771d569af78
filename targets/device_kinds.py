"""The kinds of devices: for each the class that compiles for it and the one that runs what was compiled.

Names only, so that a device without the compiler can read them; nothing is imported before it is used. Support for
another kind of hardware is registered by a line here.
"""

from __future__ import annotations

# By a target's `device_kind`, as `module:class`: an `edgec.compiler.backends.interface.Backend` and an
# `edgec.runtime.device.Device`.
DEVICE_KINDS = {
    "cpu": {
        "backend": "edgec.compiler.backends.cpu.backend:CpuBackend",
        "device": "edgec.runtime.cpu_device:CpuDevice",
    },
    "cuda": {
        "backend": "edgec.compiler.backends.cuda.backend:CudaBackend",
        "device": "edgec.runtime.gpu.device:CudaDevice",
    },
}
