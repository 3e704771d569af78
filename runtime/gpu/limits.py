"""What a GPU reaches at most: rates from its driver's clocks and NVIDIA's figures for a multiprocessor."""

from __future__ import annotations

from dataclasses import dataclass

# Multiply-adds of a cycle and multiprocessor. fp32: CUDA C++ Programming Guide, "Arithmetic Instructions". Tensor
# cores: NVIDIA's published peaks of dense fp16 products over clocks and multiprocessors. They agree with those of V100
# (125 TFLOP/s), Xavier (11), T4 (65), A100 (312), A10 (125), Orin AGX (43, half of its int8), L4 (121), H100 SXM (989)
# and RTX 4090 (165: GeForce boards sum in fp32 at half the rate). Less certain: Blackwell's data centre and Thor, by
# peaks in FP4, of which fp16 has a quarter.
_FP32_HALF = {(7, 0), (7, 2), (7, 5), (8, 0)}
_TENSOR = {
    (7, 0): 512, (7, 2): 512, (7, 5): 512, (8, 0): 1024, (8, 6): 512, (8, 7): 1024, (8, 9): 512, (9, 0): 2048,
    (10, 0): 4096, (10, 1): 4096, (11, 0): 4096, (12, 0): 512,
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """A GPU's highest rates.

    Attributes:
        name: the product's.
        fp32_gflops: billions of fp32 operations per second, a multiply-add counted as two, without tensor cores.
        tensor_gflops: of fp16 or bfloat16 with fp32 sums on tensor cores; 0 where it has none that are known.
        gbytes: billions of bytes per second from its memory.
    """

    name: str
    fp32_gflops: float
    tensor_gflops: float
    gbytes: float


def limits_of(
    name: str,
    capability: tuple[int, int],
    multiprocessors: int,
    clock_khz: int,
    memory_khz: int,
    memory_bits: int,
) -> Limits | None:
    """The limits from a driver's attributes; None where it does not tell the memory's, as on some boards."""
    if not (clock_khz and memory_khz and memory_bits):
        return None
    cycles = 1e-6 * clock_khz * multiprocessors
    return Limits(
        name,
        2 * cycles * (64 if capability in _FP32_HALF else 128),
        2 * cycles * _TENSOR.get(capability, 0) / (2 if "GeForce" in name else 1),
        2e-6 * memory_khz * memory_bits / 8,  # two transfers in a cycle
    )
