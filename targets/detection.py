"""Describe this machine: architecture, instruction-set features, cores, caches, memory, C library."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.targets.cpuinfo import parse_board, parse_cores, parse_cpuinfo, parse_identities
from edgec.targets.features import with_synonyms
from edgec.targets.hwcap import arm64_features

if TYPE_CHECKING:
    from edgec.targets.recognition import Machine
    from edgec.targets.target import Target

_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}
_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def machine_arch() -> str:
    """The processor's architecture as target files spell it: `x86_64`, `aarch64`, …"""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)


_emulated = set[str]()


def machine_features() -> frozenset[str]:
    """The instruction-set features that every core of this machine has (names as in `/proc/cpuinfo`)."""
    return _hardware_features() | _emulated


def emulate(features: Collection[str]) -> None:
    """Count features among this machine's from now on: something in this process carries out their instructions."""
    _emulated.update(features)


@cache
def _hardware_features() -> frozenset[str]:
    if machine_arch() == "aarch64":
        return with_synonyms(arm64_features())
    try:
        return parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return frozenset()


def this_machine() -> Machine:
    """This machine, as far as the system tells about it."""
    from edgec.targets.recognition import Machine  # here, because loading a model imports this module, too

    text = _read("/proc/cpuinfo")
    tree = [_read(f"/proc/device-tree/{name}").replace("\0", " ") for name in ("model", "compatible")]
    board = " ".join([parse_board(text), *tree]).strip()
    return Machine(machine_arch(), machine_features(), parse_identities(text), parse_cores(text), board)


def _read(path: str) -> str:
    """A file of the system; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def machine_glibc() -> tuple[int, int] | None:
    """The version of the C library, or None where it is not glibc (musl, for one)."""
    name, version = platform.libc_ver()
    if name != "glibc":
        return None
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def usable_cores() -> int:
    """How many threads compute at once for this process: see `edgec.targets.cores`."""
    from edgec.targets.cores import usable

    return usable()


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
    """The one of `targets` that this machine is, or the most capable that it fulfils, with the machine's own counts
    filled in.

    Raises:
        UnknownTarget: none of them is for this architecture, or each requires a feature that is missing.
    """
    from dataclasses import replace

    from edgec.targets.recognition import recognise

    best = recognise(this_machine(), targets)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return replace(best, cores=usable_cores(), memory_bytes=memory, here=True, **_cache_sizes())
