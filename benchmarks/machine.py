"""Machine and versions for a results page."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgec.targets.microarchitecture import UNKNOWN, this_processor
from edgec.targets.target import Target

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ("compiler", "runtime", "targets")  # what decides how fast an artifact is
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
        "family": this_processor()[1],
        "code": code_digest(),
        "versions": versions,
        "fp32_peak_gflops": {str(n): round(backend.fp32_peak_gflops(n), 1) for n in threads},
    }


def code_digest() -> str:
    """A digest of the code that decides how fast an artifact is: results of another one are of older code."""
    digest = hashlib.sha256()
    for folder in MEASURED:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".json", ".toml", ".c"):
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def page_name() -> str:
    """The name of the page of this machine's processor, such as `amd-epyc-zen4`."""
    name, family = this_processor()
    words = re.sub(r"\([^)]*\)|processor|cpu|[0-9]+-core", " ", name.lower())
    parts = [*re.findall(r"[a-z0-9]+", words), *([family] if family != UNKNOWN else [])]
    return "-".join(dict.fromkeys(parts))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
