"""A model that copies: the input through the arena to the first output, its weight to the second."""

from __future__ import annotations

import numpy as np

from edgec.runtime.artifact.weights import Weight
from edgec.runtime.gpu.code import Binary, Copy, GpuCode, Launch, Operand
from edgec.runtime.gpu.driver import CudaDriver
from edgec.runtime.gpu.program import GpuFunction

SHAPE = (16,)


def count(driver: CudaDriver, what: str) -> int:
    return int(getattr(driver.library._library, f"fake_{what}")())


def operand(place: str, index: int = 0, offset: int = 0) -> Operand:
    return Operand(place=place, index=index, offset=offset, shape=SHAPE, dtype="float32")  # type: ignore[arg-type]


def launch(kernel: str, source: Operand, target: Operand) -> Launch:
    return Launch(kernel=kernel, layer="layer", grid=(1, 1, 1), block=(32, 1, 1), arguments=(source, target))


def code(*names: str) -> GpuCode:
    """The input through the arena to the first output; the weight to the second."""
    first, *others = names or ("copy_64",)
    return GpuCode(
        arena_bytes=128,
        inputs=(operand("input"),),
        weights=(operand("weight"),),
        outputs=(operand("output"), operand("output", 1)),
        steps=(
            launch(first, operand("input"), operand("arena", offset=64)),
            *(launch(name, operand("arena"), operand("arena")) for name in others),
            launch("copy_64", operand("arena", offset=64), operand("output")),
            Copy(source=operand("weight"), target=operand("output", 1)),
        ),
        binaries=(
            Binary(arch="sm_80", kind="cubin", kernels=tuple({first, "copy_64", *others}), offset=0, size=5),
            Binary(arch="sm_75", kind="ptx", kernels=tuple({first, "copy_64", *others}), offset=5, size=3),
        ),
    )


WEIGHT = np.arange(16, dtype="float32")


def function(driver: CudaDriver, *names: str) -> GpuFunction:
    return GpuFunction(driver, code(*names), memoryview(b"cubinptx"), [Weight(WEIGHT, "float32")], None)


def x(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype("float32")
