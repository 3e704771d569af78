"""The GPU of this machine, and the targets that are for it, by the driver's library alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgec.runtime.gpu.code import capability_of
from edgec.runtime.gpu.driver import shared_driver
from edgec.targets import Target


@dataclass(frozen=True)
class FoundGpu:
    """A GPU as its driver describes it.

    Attributes:
        name: the product's.
        architecture: such as `sm_87`.
        multiprocessors: how many it has.
        memory_bytes: all of it.
        driver: the CUDA that its driver is for, such as `12.4`.
    """

    name: str
    architecture: str
    multiprocessors: int
    memory_bytes: int
    driver: str

    def to_json(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        return asdict(self)

    def among(self, targets: Sequence[Target]) -> list[str]:
        """Names of the targets with code for its architecture, those of a GPU as large first; for a GPU that is in none
        of them, of those whose PTX it compiles for itself.
        """

        def order(target: Target) -> tuple[int, int]:
            assert target.gpu is not None
            return len(target.gpu.architectures), abs(target.gpu.multiprocessors - self.multiprocessors)

        gpus = [one for one in targets if one.gpu is not None]
        fitting = [one for one in gpus if one.gpu and self.architecture in one.gpu.architectures]
        if fitting:
            return [one.name for one in sorted(fitting, key=order)]
        own = capability_of(self.architecture)
        return [
            one.name
            for one in gpus
            if one.gpu
            and len(one.gpu.architectures) > 1
            and one.gpu.ptx
            and capability_of(one.gpu.ptx) <= own
        ]


def find_gpu() -> FoundGpu:
    """The first GPU that the driver lists.

    Raises:
        IncompatibleDevice: there is no driver or no GPU, or the driver is too old.
    """
    driver = shared_driver()
    return FoundGpu(
        driver.name,
        "sm_{}{}".format(*driver.capability),
        driver.multiprocessors,
        driver.memory_bytes,
        ".".join(map(str, driver.version)),
    )
