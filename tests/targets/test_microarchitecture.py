"""Families of processors, from what Linux says of them."""

from __future__ import annotations

import pytest

from edgec.targets.microarchitecture import parse_processor


def cpuinfo(vendor: str, family: int, model: int, stepping: int, name: str = "CPU") -> str:
    first = f"vendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {name}\n"
    return f"processor\t: 0\n{first}stepping\t: {stepping}\n\nprocessor\t: 1\nmodel\t: 1\n"


@pytest.mark.parametrize(
    ("vendor", "family", "model", "stepping", "found"),
    [
        ("GenuineIntel", 6, 85, 4, "skylake-x"),
        ("GenuineIntel", 6, 85, 7, "cascadelake"),
        ("GenuineIntel", 6, 106, 6, "icelake"),
        ("GenuineIntel", 6, 143, 8, "sapphirerapids"),
        ("GenuineIntel", 6, 207, 2, "sapphirerapids"),
        ("GenuineIntel", 6, 190, 0, "alderlake-n"),
        ("AuthenticAMD", 25, 1, 1, "zen3"),
        ("AuthenticAMD", 25, 17, 1, "zen4"),
        ("AuthenticAMD", 25, 97, 2, "zen4"),
        ("AuthenticAMD", 26, 2, 1, "zen5"),
        ("GenuineIntel", 6, 1, 1, "unknown"),
        ("SomeoneElse", 25, 17, 1, "unknown"),
    ],
)
def test_the_family_of_a_processor(vendor: str, family: int, model: int, stepping: int, found: str) -> None:
    name, told = parse_processor(cpuinfo(vendor, family, model, stepping, "AMD EPYC"))
    assert told == found
    assert name == f"AMD EPYC ({family}-{model}-{stepping})"


def test_an_arm_core_is_its_own_family() -> None:
    text = "processor : 0\nCPU implementer : 0x41\nCPU part : 0xd0b\n\nModel : Raspberry Pi 5\n"
    assert parse_processor(text)[1] == "cortex-a76"
    assert parse_processor("")[1] == "unknown"
