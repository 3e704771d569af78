"""Hardware as the compiler and the loader see it: one TOML file, one `Target`."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgec.targets.core import Core, make_core
from edgec.targets.errors import BadTargetFile
from edgec.targets.features import FEATURES, misspelt
from edgec.targets.gpu import Gpu, make_gpu


@dataclass(frozen=True)
class TimedOn:
    """A device that times candidates for a compile: the address of its tune server, and the token."""

    host: str
    port: int
    token: str = field(repr=False)


@dataclass(frozen=True)
class Target:
    """A description of hardware that code is compiled for.

    Attributes:
        tvm: the target as TVM takes it.
        vector_bits: the width of one vector register.
        vector_registers: how many there are.
        features: names of `edgec.targets.features`. Kernels may use their instructions, and the loader refuses a
            machine that lacks one.
        l1d_bytes, l2_bytes, l3_bytes: cache sizes; an `l3_bytes` of 0 says that there is none.
        min_glibc: the oldest C library that the code runs with.
        aliases: other names that lead here.
        processors: the processors that the hardware has, as `edgec.targets.cpuinfo` identifies them: all of them, in
            any order. Detection looks for them.
        boards: words of the board's name or of its device tree, which tell boards with the same processor apart.
        emulator: the `-cpu` of qemu's user mode that can run the code, if any.
        core: what one core does in a cycle.
        gpu: the GPU that code is compiled for; None for a processor.
        here: whether it describes this machine alone (`host`), so that what is measured here may replace its facts.
        timed_on: the device on which candidates are timed; None for this machine, where that is possible.
    """

    name: str
    description: str
    tvm: dict[str, Any]
    arch: str
    vector_bits: int
    vector_registers: int
    features: frozenset[str]
    cores: int
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int
    memory_bytes: int
    min_glibc: str
    aliases: tuple[str, ...] = ()
    processors: tuple[str, ...] = ()
    boards: tuple[str, ...] = ()
    emulator: str | None = None
    device_kind: str = "cpu"
    core: Core = field(default_factory=Core)
    gpu: Gpu | None = None
    here: bool = False
    timed_on: TimedOn | None = None

    @property
    def fp32_lanes(self) -> int:
        """How many 32-bit floats one vector register holds."""
        return self.vector_bits // 32

    def unused(self, elements: Collection[str]) -> frozenset[str]:
        """The features that code has no use for which computes with `elements` (`float16`, `bfloat16`) alone."""
        known = (FEATURES[name] for name in self.features if name in FEATURES)
        return frozenset(f.name for f in known if f.element is not None and f.element not in elements)

    def without(self, names: Collection[str]) -> Target:
        """This target for code that takes no instructions of some features, and runs on machines without them."""
        if not self.features & set(names):
            return self
        flags = {f"+{FEATURES[name].llvm}" for name in names if name in FEATURES}
        tvm = dict(self.tvm)
        if "mattr" in tvm:
            tvm["mattr"] = [flag for flag in tvm["mattr"] if flag not in flags]
        return replace(self, features=self.features - set(names), tvm=tvm)

    def to_json(self) -> dict[str, Any]:
        """The description as JSON-serialisable values, in the order of a target file."""
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "description": self.description,
            "processors": list(self.processors),
            "boards": list(self.boards),
            "device_kind": self.device_kind,
            "arch": self.arch,
            "vector_bits": self.vector_bits,
            "vector_registers": self.vector_registers,
            "features": sorted(self.features),
            "cores": self.cores,
            "l1d_bytes": self.l1d_bytes,
            "l2_bytes": self.l2_bytes,
            "l3_bytes": self.l3_bytes,
            "memory_bytes": self.memory_bytes,
            "min_glibc": self.min_glibc,
            "emulator": self.emulator,
            "tvm": self.tvm,
            "core": self.core.to_json(),
            **({"gpu": self.gpu.to_json()} if self.gpu else {}),
        }


_REQUIRED: dict[str, type] = {
    "name": str,
    "description": str,
    "tvm": dict,
    "arch": str,
    "vector_bits": int,
    "vector_registers": int,
    "features": list,
    "cores": int,
    "l1d_bytes": int,
    "l2_bytes": int,
    "l3_bytes": int,
    "memory_bytes": int,
    "min_glibc": str,
}
_OPTIONAL: dict[str, type] = {
    "aliases": list, "processors": list, "boards": list, "emulator": str, "device_kind": str, "core": dict, "gpu": dict,
}  # fmt: skip
_OWN = ("name", "aliases", "processors", "boards")  # say which hardware it is, and are not inherited
_OF_A_FILE: dict[str, type] = {"extends": str, "extra_features": list}


def read_target_file(path: Path) -> dict[str, Any]:
    """The keys of one target file, checked for names and types.

    Raises:
        BadTargetFile: unreadable, not TOML, an unknown key, or a value of the wrong type.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadTargetFile(f"{path}: cannot be read as a target description: {error}") from error
    known = _REQUIRED | _OPTIONAL | _OF_A_FILE
    for key, value in content.items():
        if key not in known:
            raise BadTargetFile(f"{path}: unknown key {key!r}; a target has {', '.join(known)}")
        if type(value) is not known[key]:
            raise BadTargetFile(f"{path}: {key} must be of type {known[key].__name__}, not {value!r}")
    if "name" not in content:
        raise BadTargetFile(f"{path}: the key name is missing")
    return content


def make_target(content: dict[str, Any], path: Path, base: Target | None) -> Target:
    """Build the target of a file's `content`; keys that it leaves out come from `base` (its `extends`).

    Facts of the `[core]` table are inherited one by one.

    Raises:
        BadTargetFile: a key is missing, or a value is out of range.
    """
    merged: dict[str, Any] = dict(content)
    extra = merged.pop("extra_features", [])
    merged.pop("extends", None)
    if base is not None:
        inherited = {key: getattr(base, key) for key in (_REQUIRED | _OPTIONAL) if key not in _OWN}
        merged = inherited | merged
    for key in _REQUIRED:
        if key not in merged:
            raise BadTargetFile(f"{path}: the key {key} is missing (and no `extends` provides it)")
    for key in ("vector_bits", "vector_registers", "cores", "l1d_bytes", "l2_bytes", "memory_bytes"):
        if merged[key] <= 0:
            raise BadTargetFile(f"{path}: {key} must be positive, not {merged[key]}")
    if "kind" not in merged["tvm"]:
        raise BadTargetFile(f'{path}: [tvm] needs a kind, such as kind = "llvm"')
    try:
        merged["core"] = make_core(content.get("core", {}), base.core if base else None)
        if "gpu" in content or (base and base.gpu):
            merged["gpu"] = make_gpu(content.get("gpu", {}), base.gpu if base else None)
    except ValueError as error:
        raise BadTargetFile(f"{path}: {error}") from error
    merged["features"] = frozenset(merged["features"]) | frozenset(extra)
    for name in sorted(merged["features"]):
        if meant := misspelt(name):
            raise BadTargetFile(
                f"{path}: the feature {name!r} is called {meant!r}; {name} is LLVM's name for it"
            )
    for key in ("aliases", "processors", "boards"):
        merged[key] = tuple(merged.get(key, ()))
    merged["emulator"] = merged.get("emulator") or None
    return Target(**merged)
