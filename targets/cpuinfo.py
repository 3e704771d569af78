"""`/proc/cpuinfo`: which processors a machine has, and what all of them can do; read here, and written for emulators.

A processor is identified as `implementer:part` on 64-bit ARM (`0x41:0xd0b`; MIDR_EL1 in Arm's reference manuals) and
as `vendor:family:model` on x86 (`GenuineIntel:6:190`; the CPUID leaf 1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgec.targets.features import linux_names, with_synonyms

if TYPE_CHECKING:
    from edgec.targets.target import Target

# The microarchitectures of processors, for target files without `processors` of their own.
ARM_CORES = {
    "0x41:0xd03": "cortex-a53",
    "0x41:0xd05": "cortex-a55",
    "0x41:0xd07": "cortex-a57",
    "0x41:0xd08": "cortex-a72",
    "0x41:0xd0b": "cortex-a76",
    "0x41:0xd0c": "neoverse-n1",
    "0x41:0xd40": "neoverse-v1",
    "0x41:0xd41": "cortex-a78",
    "0x41:0xd42": "cortex-a78",  # A78AE
    "0x41:0xd4f": "neoverse-v2",
    "0x4e:0x004": "carmel",
}


def _processors(text: str) -> Iterator[dict[str, str]]:
    """The fields of each processor, names in lower case; those of the whole machine come as a last one."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        name = key.strip().lower()
        if not colon or (name == "processor" and fields):
            if fields:
                yield fields
            fields = {}
        if colon:
            fields[name] = value.strip()
    if fields:
        yield fields


def parse_cpuinfo(text: str) -> frozenset[str]:
    """The features that all processors listed in a `/proc/cpuinfo` have in common."""
    common: frozenset[str] | None = None
    for fields in _processors(text):
        listed = fields.get("flags", fields.get("features"))
        if listed is not None:
            flags = frozenset(listed.split())
            common = flags if common is None else common & flags
    return with_synonyms(common or frozenset())


def parse_identities(text: str) -> tuple[str, ...]:
    """The identity of each processor in a `/proc/cpuinfo`, in their order; those without one are left out."""
    found, implementer = [], ""
    for fields in _processors(text):
        implementer = fields.get("cpu implementer", implementer)
        if "cpu part" in fields and implementer:
            found.append(f"{implementer}:{fields['cpu part']}".lower())
        elif "vendor_id" in fields and "model" in fields:
            found.append(f"{fields['vendor_id']}:{fields.get('cpu family', '')}:{fields['model']}")
    return tuple(found)


def parse_cores(text: str) -> frozenset[str]:
    """The Arm cores listed in a `/proc/cpuinfo` by the names of their microarchitectures, as far as known here."""
    return frozenset(ARM_CORES[one] for one in parse_identities(text) if one in ARM_CORES)


def parse_board(text: str) -> str:
    """The name of the board that some kernels append to a `/proc/cpuinfo`; empty if there is none."""
    named = [f["model"] for f in _processors(text) if "model" in f and "vendor_id" not in f]
    return named[-1] if named else ""


def matches(identity: str, pattern: str) -> bool:
    """Whether a processor is one that a target file lists: `0x41:0xd0b`, or `AuthenticAMD:25:16-31,96-127`."""
    *head, last = identity.split(":")
    *wanted, ranges = pattern.split(":")
    if head != wanted:
        return False
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", ranges) or not last.isdecimal():
        return last == ranges
    bounds = [
        (int(low), int(high or low)) for low, _, high in (one.partition("-") for one in ranges.split(","))
    ]
    return any(low <= int(last) <= high for low, high in bounds)


def cpuinfo_of(target: Target, count: int) -> str:
    """A `/proc/cpuinfo` of `count` processors of a target, for programs that look for features there."""
    names = " ".join(sorted(linux_names(target.features)))
    identity = target.processors[0] if target.processors else _identity_of(target)
    parts = identity.split(":")
    if target.arch == "aarch64":
        lines = [
            "BogoMIPS\t: 100.00",
            f"Features\t: {names}",
            f"CPU implementer\t: {parts[0]}",
            "CPU architecture: 8",
            "CPU variant\t: 0x0",
            f"CPU part\t: {parts[1]}",
            "CPU revision\t: 0",
        ]
    else:
        vendor, family, models = parts
        lines = [
            f"vendor_id\t: {vendor}",
            f"cpu family\t: {family}",
            f"model\t\t: {re.split('[,-]', models)[0]}",
            f"model name\t: {target.description}",
            f"flags\t\t: {names}",
        ]
    return "".join("\n".join([f"processor\t: {number}", *lines, "", ""]) for number in range(count))


def _identity_of(target: Target) -> str:
    if target.arch != "aarch64":
        return "unknown:0:0"
    known = (identity for identity, core in ARM_CORES.items() if core == target.core.microarchitecture)
    return next(known, "0x41:0xd03")
