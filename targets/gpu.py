"""A GPU's architecture and limits: the facts from which the compiler chooses binaries, tiles and estimates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

TENSOR_TYPES = ("fp16", "bf16", "tf32", "int8", "fp8", "fp4")


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes:
        architectures: one binary is made for each, such as `sm_87`; the first is the one that tiles are chosen for.
        ptx: the architecture of the PTX that later GPUs compile for themselves; empty for none.
        source: where the facts come from.
        multiprocessors: streaming multiprocessors.
        clock_mhz: the highest sustained clock.
        memory_gb_per_s: bandwidth of the device's memory.
        l2_bytes: the cache that all multiprocessors share.
        shared_bytes_per_multiprocessor: shared memory of one multiprocessor.
        shared_bytes_per_block: the most that one block may use.
        registers_per_multiprocessor: 32-bit registers.
        threads_per_multiprocessor: resident threads.
        tensor_types: operand types of its tensor cores; none where it has no tensor cores.
        unified_memory: whether processor and GPU share one memory.
    """

    architectures: tuple[str, ...] = ()
    ptx: str = ""
    source: str = ""
    multiprocessors: int = 1
    clock_mhz: int = 1000
    memory_gb_per_s: float = 25.0
    l2_bytes: int = 262144
    shared_bytes_per_multiprocessor: int = 65536
    shared_bytes_per_block: int = 49152
    registers_per_multiprocessor: int = 65536
    threads_per_multiprocessor: int = 2048
    tensor_types: tuple[str, ...] = ()
    unified_memory: bool = False

    @property
    def fp32_gflops(self) -> float:
        """The fp32 peak without tensor cores: 128 multiply-adds a cycle and multiprocessor, or 64."""
        lanes = 64 if self.architectures and self.architectures[0] in _HALF_RATE else 128
        return 2e-3 * lanes * self.multiprocessors * self.clock_mhz

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON-serialisable values, in the order of a target file."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


# CUDA C++ Programming Guide, "Arithmetic Instructions": results per clock cycle per multiprocessor
_HALF_RATE = ("sm_70", "sm_72", "sm_75", "sm_80")
_ARCHITECTURE = re.compile(r"^sm_\d{2,3}[af]?$")


def make_gpu(content: Mapping[str, Any], base: Gpu | None = None) -> Gpu:
    """The GPU of a `[gpu]` table; facts that it leaves out come from `base`, else from the defaults.

    Raises:
        ValueError: an unknown key, or a value of the wrong type or out of range; the message names the key.
    """
    known = {fact.name: str(fact.type) for fact in fields(Gpu)}
    values = {name: getattr(base, name) for name in known} if base is not None else {}
    for key, value in content.items():
        if key not in known:
            raise ValueError(f"unknown key 'gpu.{key}'; a GPU has {', '.join(known)}")
        values[key] = _checked(key, value, known[key])
    made = Gpu(**values)
    for name in (*made.architectures, *((made.ptx,) if made.ptx else ())):
        if not _ARCHITECTURE.match(name):
            raise ValueError(f"gpu.architectures and gpu.ptx are named such as sm_87, not {name!r}")
    if unknown := set(made.tensor_types) - set(TENSOR_TYPES):
        raise ValueError(
            f"gpu.tensor_types are of {', '.join(TENSOR_TYPES)}, not {', '.join(sorted(unknown))}"
        )
    return made


def _checked(key: str, value: object, kind: str) -> Any:  # noqa: ANN401 - by `kind`
    if kind.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"gpu.{key} must be a list of strings, not {value!r}")
        return tuple(value)
    if kind in ("str", "bool"):
        if type(value).__name__ != kind:
            raise ValueError(f"gpu.{key} must be of type {kind}, not {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, int if kind == "int" else int | float):
        raise ValueError(f"gpu.{key} must be of type {kind}, not {value!r}")
    if not value > 0:
        raise ValueError(f"gpu.{key} must be positive, not {value}")
    return value if kind == "int" else float(value)
