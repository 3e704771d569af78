"""Machine and versions for a results page."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgec.targets.target import Target

PACKAGES = ("edgec", "apache-tvm", "onnxruntime", "openvino", "numpy")


def describe_machine(target: Target, threads: Sequence[int]) -> dict[str, Any]:
    """Processor, load, kernel, versions, and the measured fp32 peak in GFLOP/s by number of threads."""
    from edgec.compiler.backends.registry import backend_of

    backend = backend_of(target)

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(x, 2) for x in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "target": target.name,
        "versions": versions,
        "fp32_peak_gflops": {str(n): round(backend.fp32_peak_gflops(n), 1) for n in threads},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
