"""MobileNetV3 (Howard et al., "Searching for MobileNetV3", ICCV 2019), as torchvision has it."""

from __future__ import annotations

from typing import NamedTuple

from edgec.models.graph import Graph, Value
from edgec.models.zoo.mobilenet import conv_bn


class Block(NamedTuple):
    """One inverted residual: its kernel, widths, squeeze-and-excitation, hard-swish (or ReLU) and stride."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    hard_swish: bool
    stride: int


def large_blocks(tail_divider: int = 1) -> list[Block]:
    """Table 1 of the paper; detectors halve the widths of the last stage (`tail_divider` 2)."""
    tail, wide = 160 // tail_divider, 960 // tail_divider
    return [
        Block(3, 16, 16, False, False, 1),
        Block(3, 64, 24, False, False, 2),
        Block(3, 72, 24, False, False, 1),
        Block(5, 72, 40, True, False, 2),
        Block(5, 120, 40, True, False, 1),
        Block(5, 120, 40, True, False, 1),
        Block(3, 240, 80, False, True, 2),
        Block(3, 200, 80, False, True, 1),
        Block(3, 184, 80, False, True, 1),
        Block(3, 184, 80, False, True, 1),
        Block(3, 480, 112, True, True, 1),
        Block(3, 672, 112, True, True, 1),
        Block(5, 672, tail, True, True, 2),
        Block(5, wide, tail, True, True, 1),
        Block(5, wide, tail, True, True, 1),
    ]


SMALL_BLOCKS = [
    Block(3, 16, 16, True, False, 2),
    Block(3, 72, 24, False, False, 2),
    Block(3, 88, 24, False, False, 1),
    Block(5, 96, 40, True, True, 2),
    Block(5, 240, 40, True, True, 1),
    Block(5, 240, 40, True, True, 1),
    Block(5, 120, 48, True, True, 1),
    Block(5, 144, 48, True, True, 1),
    Block(5, 288, 96, True, True, 2),
    Block(5, 576, 96, True, True, 1),
    Block(5, 576, 96, True, True, 1),
]


def _divisible(width: float) -> int:
    """Round to a multiple of eight, never below 90 % of the width (the reference code's rule)."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def _squeeze_excite(g: Graph, x: Value) -> Value:
    gate = g.global_pool(x)
    gate = g.relu(g.conv(gate, _divisible(x.channels // 4), 1, "fc1", bias=True))
    gate = g.hard_sigmoid(g.conv(gate, x.channels, 1, "fc2", bias=True, gain=1.0))
    return g.mul(gate, x)


def expand(g: Graph, x: Value, block: Block) -> Value:
    """The 1×1 convolution that opens a block (nothing where the width stays)."""
    if block.expanded == x.channels:
        return x
    return conv_bn(g, x, block.expanded, 1, "0", activation=g.hard_swish if block.hard_swish else g.relu)


def finish_block(g: Graph, expanded: Value, block: Block, shortcut: Value | None) -> Value:
    """Depthwise convolution, squeeze-and-excitation, projection and the shortcut, if there is one."""
    y = conv_bn(
        g, expanded, block.expanded, block.kernel, "1", stride=block.stride, groups=block.expanded,
        activation=g.hard_swish if block.hard_swish else g.relu,
    )  # fmt: skip
    if block.squeeze:
        with g.scope("2"):
            y = _squeeze_excite(g, y)
    y = conv_bn(g, y, block.out, 1, "3", gain=1.0 if shortcut is None else 0.5)
    return y if shortcut is None else g.add(y, shortcut)


def inverted_residual(g: Graph, x: Value, block: Block) -> Value:
    """One block of the table."""
    residual = block.stride == 1 and x.channels == block.out
    return finish_block(g, expand(g, x, block), block, x if residual else None)


def stem(g: Graph, x: Value) -> Value:
    """The first convolution: 16 channels at half the size, hard-swish."""
    return conv_bn(g, x, 16, 3, "features.0", stride=2, activation=g.hard_swish)


def _mobilenetv3(g: Graph, blocks: list[Block], hidden: int) -> dict[str, Value]:
    g.eps = 1e-3
    x = stem(g, g.input("input", (1, 3, 224, 224)))
    for i, block in enumerate(blocks, 1):
        with g.scope(f"features.{i}.block"):
            x = inverted_residual(g, x, block)
    x = conv_bn(g, x, 6 * x.channels, 1, f"features.{len(blocks) + 1}", activation=g.hard_swish)
    x = g.hard_swish(g.dense(g.flatten(g.global_pool(x)), hidden, "classifier.0"))
    return {"output": g.dense(x, 1000, "classifier.3")}


def large(g: Graph) -> dict[str, Value]:
    """MobileNetV3-Large: 5,483,032 parameters, 0.217 G multiply-adds (torchvision)."""
    return _mobilenetv3(g, large_blocks(), 1280)


def small(g: Graph) -> dict[str, Value]:
    """MobileNetV3-Small: 2,542,856 parameters, 0.057 G multiply-adds (torchvision)."""
    return _mobilenetv3(g, SMALL_BLOCKS, 1024)
