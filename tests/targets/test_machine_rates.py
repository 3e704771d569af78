"""Measured rates: kept in a file, and turned into the facts of a core."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.targets import load_target
from edgec.targets.machine_rates import Level, MachineRates, RatesFile

TARGET = load_target("x86-avx512-bf16")
EMERALD = MachineRates(
    "INTEL XEON (6-207-2)", "sapphirerapids", TARGET.name, 2, 2.5,
    {"fp32": (158.0, 310.0), "bf16": (158.0, 312.0), "int8": (640.0, 1270.0)}, 4.03,
    (Level("L1", 48 << 10, 2.0, (310.0, 620.0)), Level("L2", 2 << 20, 6.4, (120.0, 240.0)),
     Level("L3", 260 << 20, 60.0, (25.0, 50.0)), Level("memory", 0, 110.0, (12.0, 24.0))),
)  # fmt: skip


def test_a_core_gets_the_measured_facts_and_keeps_the_others() -> None:
    core = EMERALD.core(TARGET)
    assert (core.microarchitecture, core.issue_width) == ("sapphirerapids", TARGET.core.issue_width)
    assert (core.fma_per_cycle, core.fma_latency, core.loads_per_cycle) == (2.0, 4.0, 2.0)
    assert (core.l2_bytes_per_cycle, core.l3_bytes_per_cycle, core.memory_bytes_per_cycle) == (
        48.0,
        10.0,
        4.8,
    )
    assert core.dots["vdpbf16ps"].per_cycle == 1.0  # at half rate: no faster than fp32
    assert core.dots["vpdpbusd"].per_cycle == 2.0


def test_limits_by_type_size_and_threads() -> None:
    assert EMERALD.floor_s(158_000_000, 0, 0, 1) == (pytest.approx(1e-3), "arithmetic")
    assert EMERALD.floor_s(310_000_000, 0, 0, 2) == (pytest.approx(1e-3), "arithmetic")
    assert EMERALD.floor_s(640_000_000, 0, 0, 1, "int8") == (pytest.approx(1e-3), "arithmetic")
    assert EMERALD.floor_s(158_000_000, 0, 0, 1, "fp16") == (pytest.approx(1e-3), "arithmetic")
    assert EMERALD.floor_s(0, 120_000, 1 << 19, 1) == (pytest.approx(1e-6), "L2")
    assert EMERALD.floor_s(0, 12_000_000, 1 << 30, 1) == (pytest.approx(1e-3), "memory")


def test_rates_are_kept_by_processor_and_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    file = RatesFile(tmp_path, EMERALD.processor, TARGET.name)
    assert file.read() is None
    file.write(EMERALD)
    assert file.read() == EMERALD
    assert RatesFile(tmp_path, "another", TARGET.name).read() is None
    file.path.write_text('{"format": 1, "rates": {"processor": "x"}}')
    assert file.read() is None
    RatesFile(Path("/proc/nowhere"), "x", "y").write(EMERALD)  # a folder that cannot be written is no error
