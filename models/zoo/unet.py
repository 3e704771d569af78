"""U-Net (Ronneberger et al., MICCAI 2015) in the form that PyTorch Hub hands out for medical pictures."""

from __future__ import annotations

from edgec.models.graph import Graph, Value

WIDTH = 32


def _block(g: Graph, x: Value, out: int, name: str) -> Value:
    with g.scope(name):
        for i in (1, 2):
            x = g.relu(g.batch_norm(g.conv(x, out, 3, f"conv{i}", padding=1), f"norm{i}"))
    return x


def unet(g: Graph) -> dict[str, Value]:
    """U-Net on 256×256 colour pictures, one class: 7,763,041 parameters.

    The figure is that of `mateuszbuda/brain-segmentation-pytorch` (width 32, batch norm, padded
    convolutions). `output` is a probability `[1, 1, 256, 256]`.
    """
    x = g.input("input", (1, 3, 256, 256))
    skips = []
    for level in range(4):
        x = _block(g, x, WIDTH << level, f"encoder{level + 1}")
        skips.append(x)
        x = g.max_pool(x, 2, 2)
    x = _block(g, x, WIDTH << 4, "bottleneck")
    for level in reversed(range(4)):
        x = g.conv_transpose(x, WIDTH << level, 2, 2, f"upconv{level + 1}")
        x = _block(g, g.concat([x, skips[level]]), WIDTH << level, f"decoder{level + 1}")
    return {"output": g.sigmoid(g.conv(x, 1, 1, "conv", bias=True, gain=1.0))}
