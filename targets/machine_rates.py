"""What a machine can do, as measured on it: arithmetic by data type, and each level of its memory."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgec.targets.core import Core, DotRate
from edgec.targets.target import Target

FORMAT = 1
_HALF = 0.5  # of a cache is taken to keep what a kernel reads: the rest belongs to other arrays and programs


@dataclass(frozen=True)
class Level:
    """A level of the memory.

    Attributes:
        name: `L1`, `L2`, `L3` or `memory`.
        size: bytes; 0 for memory.
        latency_ns: of a load that depends on the one before.
        gbytes: billions of bytes read per second by one core, and by all of them together.
    """

    name: str
    size: int
    latency_ns: float
    gbytes: tuple[float, float]


@dataclass(frozen=True)
class MachineRates:
    """Measured limits of a machine.

    Attributes:
        processor: name of its CPU.
        family: microarchitecture family, see `edgec.targets.microarchitecture`.
        target: name of the target whose instructions were timed.
        threads: threads of the second rate of each pair.
        ghz: clock rate while measuring.
        gops: by data type (`fp32`, `bf16`, `fp16`, `int8`), billions of operations per second of one core and of all,
            a multiply-add counted as two; types without an instruction are absent.
        fma_latency: cycles until a sum can be added to again.
        levels: L1 to memory.
    """

    processor: str
    family: str
    target: str
    threads: int
    ghz: float
    gops: dict[str, tuple[float, float]]
    fma_latency: float
    levels: tuple[Level, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> MachineRates:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: not what `to_json` writes.
        """
        levels = tuple(
            Level(one["name"], int(one["size"]), float(one["latency_ns"]), _pair(one["gbytes"]))
            for one in content["levels"]
        )
        gops = {str(name): _pair(pair) for name, pair in content["gops"].items()}
        processor, family, target = (str(content[key]) for key in ("processor", "family", "target"))
        threads, ghz, latency = int(content["threads"]), float(content["ghz"]), float(content["fma_latency"])
        return MachineRates(processor, family, target, threads, ghz, gops, latency, levels)

    def of(self, pair: tuple[float, float], threads: int) -> float:
        """The rate on `threads` threads: in between, one in proportion."""
        if threads <= 1 or self.threads <= 1:
            return pair[0]
        return pair[0] + (pair[1] - pair[0]) * min(1.0, (threads - 1) / (self.threads - 1))

    def floor_s(
        self, flops: int, size: int, held: int, threads: int, kind: str = "fp32"
    ) -> tuple[float, str]:
        """The least seconds for `flops` operations and `size` bytes of a working set of `held`, and what bounds them.

        The bound is `arithmetic` or the name of a level.
        """
        rate = self.of(self.gops.get(kind, self.gops["fp32"]), threads)
        level = next((one for one in self.levels if one.size and held <= one.size * _HALF), self.levels[-1])
        arithmetic, moving = flops / rate / 1e9, size / self.of(level.gbytes, threads) / 1e9
        return (arithmetic, "arithmetic") if arithmetic >= moving else (moving, level.name)

    def core(self, target: Target) -> Core:
        """The facts about a core of `target` with those replaced that were measured; the others are the target's."""
        by_name = {level.name: level for level in self.levels}
        cycles = self.ghz
        vector = target.vector_bits / 8

        def per_cycle(name: str, otherwise: float) -> float:
            return round(by_name[name].gbytes[0] / cycles, 2) if name in by_name else otherwise

        base = target.core
        fma = self.gops["fp32"][0] / (2 * target.fp32_lanes * cycles)
        dots = dict(base.dots)
        for kind, name, products in (("bf16", "vdpbf16ps", 2), ("int8", "vpdpbusd", 4), ("int8", "sdot", 4)):
            if kind in self.gops and name in dots:
                rate = self.gops[kind][0] / (2 * products * target.fp32_lanes * cycles)
                dots[name] = DotRate(_steps(rate), dots[name].latency)
        return replace(
            base,
            microarchitecture=self.family,
            source=f"measured on {self.processor}",
            fma_per_cycle=_steps(fma),
            half_vectors=base.half_vectors if _steps(fma) <= base.fma_per_cycle else 1.0,
            fma_latency=max(1.0, float(round(self.fma_latency))),
            loads_per_cycle=_steps(by_name["L1"].gbytes[0] / cycles / vector) if "L1" in by_name else 1.0,
            l2_bytes_per_cycle=per_cycle("L2", base.l2_bytes_per_cycle),
            l3_bytes_per_cycle=per_cycle("L3", base.l3_bytes_per_cycle),
            memory_bytes_per_cycle=per_cycle("memory", base.memory_bytes_per_cycle),
            dots=dots,
        )


def _pair(values: Any) -> tuple[float, float]:  # noqa: ANN401 - of a JSON file
    one, all_ = values
    return float(one), float(all_)


def _steps(rate: float) -> float:
    """A rate of instructions per cycle: in halves, as units are."""
    return max(0.5, round(2 * rate) / 2)


class RatesFile:
    """The measured rates of a CPU model in a cache folder: measured once, by whoever comes first."""

    def __init__(self, folder: Path, processor: str, target: str) -> None:
        safe = "".join(c if c.isalnum() else "_" for c in f"{processor}-{target}")
        self.path = folder / "machines" / f"{safe}.json"

    def read(self) -> MachineRates | None:
        """The rates, if they were measured; a damaged file counts as absent."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return MachineRates.from_json(content["rates"]) if content["format"] == FORMAT else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, rates: MachineRates) -> None:
        """Store the rates. A folder that cannot be written is ignored: the file only saves time."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".new-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"format": FORMAT, "rates": rates.to_json()}, file, indent=1)
            Path(name).replace(self.path)
