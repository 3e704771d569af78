"""The throughput of one core of a target: the facts from which the compiler estimates the speed of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

_MAY_BE_ZERO = ("core.loads_exposed", "core.spare_registers")


@dataclass(frozen=True)
class DotRate:
    """How fast a dot-product instruction is on whole vectors.

    Attributes:
        per_cycle: instructions a cycle.
        latency: cycles until a sum can be added to again.
    """

    per_cycle: float
    latency: float


@dataclass(frozen=True)
class Core:
    """A microarchitecture, as far as the compiler's estimates need it.

    The defaults describe a generic small core that does one of each per cycle. A target file
    without a `[core]` table, and without an `extends` to inherit one from, is estimated by them.

    Attributes:
        microarchitecture: the core that the facts describe.
        source: where the facts come from.
        winners: the microarchitecture whose shipped winners are used for this core until it has its own; empty for its
        own only.
        issue_width: instructions that can start in a cycle.
        fma_per_cycle: multiply-adds of whole vectors that can start in a cycle: the number of units, or a fraction
            of them where a vector passes through a unit in parts.
        half_vectors: how many multiply-adds of vectors half as wide can start for a whole one; 1 where unknown.
        fma_latency: cycles until a sum can be added to again (the accumulator's own latency where it is forwarded).
        loads_per_cycle: loads of whole vectors, or of one element into every lane, from the first cache.
        loads_exposed: which share of the loads' time multiply-adds do not hide: 0 where instructions run out of order.
        fetch_exposed: which share of fetching weights from the second cache computing does not hide (or of computing,
            where fetching takes longer).
        spare_registers: vector registers that LLVM's order of instructions takes besides those of a tile.
        l2_bytes_per_cycle: sustained from the second cache, by one core.
        l3_bytes_per_cycle: the same from the last-level cache; without meaning where the target has none.
        memory_bytes_per_cycle: the same from memory.
        dots: the dot-product instructions of the core, by name.
    """

    microarchitecture: str = "generic"
    source: str = ""
    winners: str = ""
    issue_width: int = 2
    fma_per_cycle: float = 1.0
    half_vectors: float = 1.0
    fma_latency: float = 4.0
    loads_per_cycle: float = 1.0
    loads_exposed: float = 0.0
    fetch_exposed: float = 0.3
    spare_registers: int = 0
    l2_bytes_per_cycle: float = 16.0
    l3_bytes_per_cycle: float = 8.0
    memory_bytes_per_cycle: float = 4.0
    dots: Mapping[str, DotRate] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON-serialisable values, in the order of a target file."""
        return asdict(self)


def make_core(content: Mapping[str, Any], base: Core | None = None) -> Core:
    """The core of a `[core]` table; facts that it leaves out come from `base`, else from the defaults.

    Raises:
        ValueError: an unknown key, a value of the wrong type or out of range; the message names the key.
    """
    known = {fact.name: fact.type for fact in fields(Core)}
    values = {name: getattr(base, name) for name in known} if base is not None else {}
    for key, value in content.items():
        if key not in known:
            raise ValueError(f"unknown key 'core.{key}'; a core has {', '.join(known)}")
        if key == "dots":
            values[key] = {**values.get(key, {}), **_dots(value)}
        elif known[key] == "str":
            if not isinstance(value, str):
                raise ValueError(f"core.{key} must be of type str, not {value!r}")
            values[key] = value
        else:
            values[key] = _positive(f"core.{key}", value, whole=known[key] == "int")
    return Core(**values)


def _dots(content: object) -> dict[str, DotRate]:
    if not isinstance(content, Mapping):
        raise ValueError(f"core.dots must be a table of instructions, not {content!r}")
    made = {}
    for name, rate in content.items():
        wanted = {fact.name for fact in fields(DotRate)}
        if not isinstance(rate, Mapping) or set(rate) != wanted:
            raise ValueError(f"core.dots.{name} must have the keys {' and '.join(sorted(wanted))}")
        made[name] = DotRate(
            **{key: _positive(f"core.dots.{name}.{key}", rate[key]) for key in sorted(wanted)}
        )
    return made


def _positive(key: str, value: object, *, whole: bool = False) -> Any:  # noqa: ANN401 - int or float, by `whole`
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ValueError(f"{key} must be of type {'int' if whole else 'float'}, not {value!r}")
    if not (value >= 0 if key in _MAY_BE_ZERO else value > 0):
        kind = "0 or positive" if key in _MAY_BE_ZERO else "positive"
        raise ValueError(f"{key} must be {kind}, not {value}")
    return value if whole else float(value)
