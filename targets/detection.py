"""Describe this machine: architecture, instruction-set features, cores, caches, memory, C library."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.targets.cpuinfo import parse_cores, parse_cpuinfo
from edgec.targets.errors import UnknownTarget
from edgec.targets.features import with_synonyms
from edgec.targets.hwcap import arm64_features

if TYPE_CHECKING:
    from edgec.targets.target import Target

_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}
_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def machine_arch() -> str:
    """The processor's architecture as target files spell it: `x86_64`, `aarch64`, …"""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)


@cache
def machine_features() -> frozenset[str]:
    """The instruction-set features that every core of this machine has (names as in `/proc/cpuinfo`)."""
    if machine_arch() == "aarch64":
        return with_synonyms(arm64_features())
    try:
        return parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return frozenset()


def machine_cores() -> frozenset[str]:
    """The microarchitectures of this machine's cores, as far as they are known here (64-bit ARM only)."""
    try:
        return parse_cores(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return frozenset()


def machine_glibc() -> tuple[int, int] | None:
    """The version of the C library, or None where it is not glibc (musl, for one)."""
    name, version = platform.libc_ver()
    if name != "glibc":
        return None
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def usable_cores() -> int:
    """How many cores this process may run on (its affinity mask, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cache_sizes() -> dict[str, Any]:
    """Data cache sizes of the first core by level (`l1d_bytes` …), as far as the system reports them."""
    sizes: dict[str, Any] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / part).read_text().strip() for part in ("level", "type", "size"))
        except OSError:
            continue
        if kind in ("Data", "Unified") and size and size[-1] in _SUFFIXES:
            sizes["l1d_bytes" if level == "1" else f"l{level}_bytes"] = int(size[:-1]) * _SUFFIXES[size[-1]]
    return {key: value for key, value in sizes.items() if key in ("l1d_bytes", "l2_bytes", "l3_bytes")}


def detect_from(targets: list[Target]) -> Target:
    """The most capable of `targets` that this machine fulfils, with the machine's own counts filled in.

    Raises:
        UnknownTarget: none of them is for this architecture, or each requires a feature that is missing.
    """
    from dataclasses import replace  # here, because loading a model imports this module and not dataclasses

    arch, features = machine_arch(), machine_features()
    fitting = [target for target in targets if target.arch == arch and target.features <= features]
    fitting = [target for target in fitting if target.device_kind == "cpu"]
    if not fitting:
        raise UnknownTarget(
            f"no known target fits this machine ({arch}); write one and pass its path to --target"
        )
    cores = machine_cores()

    def rank(target: Target) -> tuple[int, bool, int, str]:
        own_core = target.core.microarchitecture in cores
        return target.vector_bits, own_core, len(target.features), target.name

    best = max(fitting, key=rank)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return replace(best, cores=usable_cores(), memory_bytes=memory, here=True, **_cache_sizes())
