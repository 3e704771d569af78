"""The microarchitecture family of a processor: what winners are shipped by, and what measured rates describe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgec.targets.cpuinfo import parse_cores

# Family and models of `/proc/cpuinfo` (AMD's processor programming references; Intel's SDM, volume 4, table 2-1).
_AMD_ZEN3, _AMD_ZEN4, _AMD_ZEN5 = 25, 25, 26
_ZEN4_MODELS = (*range(0x10, 0x20), *range(0x60, 0x80), *range(0xA0, 0xB0))
_INTEL = {
    0x55: "skylake-x",  # from stepping 5 on Cascade Lake, from 10 on Cooper Lake
    0x5E: "skylake",
    0x4E: "skylake",
    0x8E: "skylake",
    0x9E: "skylake",
    0x6A: "icelake",
    0x6C: "icelake",
    0x7D: "icelake",
    0x7E: "icelake",
    0x8F: "sapphirerapids",
    0xCF: "sapphirerapids",  # Emerald Rapids: the same core
    0xBE: "alderlake-n",
}
_CASCADE_LAKE, _COOPER_LAKE = 5, 10  # steppings

UNKNOWN = "unknown"


def family_of(fields: Mapping[str, str]) -> str:
    """The family of an x86 processor, from its fields in `/proc/cpuinfo`; `unknown` for one not known here."""
    try:
        family, model, stepping = (int(fields[key]) for key in ("cpu family", "model", "stepping"))
    except (KeyError, ValueError):
        return UNKNOWN
    vendor = fields.get("vendor_id", "")
    if vendor == "AuthenticAMD":
        if family == _AMD_ZEN5:
            return "zen5"
        if family == _AMD_ZEN4:
            return "zen4" if model in _ZEN4_MODELS else "zen3"
        return UNKNOWN
    if vendor != "GenuineIntel" or family != 6:
        return UNKNOWN
    found = _INTEL.get(model, UNKNOWN)
    if found == "skylake-x" and stepping >= _CASCADE_LAKE:
        return "cascadelake" if stepping < _COOPER_LAKE else "cooperlake"
    return found


def parse_processor(text: str) -> tuple[str, str]:
    """Name and family of the first processor in a `/proc/cpuinfo`."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon and fields:
            break
        fields.setdefault(key, value)
    family = family_of(fields)
    if family == UNKNOWN:
        family = min(parse_cores(text), default=UNKNOWN)
    named = fields.get("model name") or fields.get("Model") or family
    # hypervisors hide the name ("AMD EPYC"): the numbers tell processors of one name apart
    numbers = "-".join(fields[key] for key in ("cpu family", "model", "stepping") if key in fields)
    return f"{named} ({numbers})" if numbers else named, family


def this_processor() -> tuple[str, str]:
    """Name and microarchitecture family of this machine's processor."""
    try:
        return parse_processor(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return UNKNOWN, UNKNOWN


__all__ = ["UNKNOWN", "family_of", "parse_processor", "this_processor"]
