"""The shapes detector: a small anchor-free detector that edgec trains itself (`training/shapes.py`)."""

from __future__ import annotations

from edgec.models.graph import Graph, Value
from edgec.models.synthetic.shapes import CLASSES
from edgec.models.zoo.yolo import boxes_from_distances

WIDTH, HEIGHT = 256, 192
STRIDES = (8, 16)


def _conv(g: Graph, x: Value, out: int, name: str, kernel: int = 3, stride: int = 1) -> Value:
    with g.scope(name):
        y = g.conv(x, out, kernel, "conv", stride=stride, padding=(kernel - 1) // 2)
        return g.relu(g.batch_norm(y, "bn"))


def _residual(g: Graph, x: Value, name: str) -> Value:
    with g.scope(name):
        return g.add(x, _conv(g, _conv(g, x, x.channels, "0"), x.channels, "1"))


def _head(g: Graph, x: Value, name: str) -> Value:
    with g.scope(name):
        y = g.conv(_conv(g, x, x.channels, "0"), 4 + len(CLASSES), 1, "1", bias=True)
    return g.reshape(y, (1, y.channels, y.shape[2] * y.shape[3]))


def detector(g: Graph) -> dict[str, Value]:
    """Two scales (strides 8 and 16) on `images` [1, 3, 192, 256], RGB from 0 to 1.

    `output0` is `[1, 9, 960]`: centre x, centre y, width, height in pixels, then a score for each of the
    five shapes, as YOLOv8 has it. Distances from a cell to the box's sides are exponentials.
    """
    x = g.input("images", (1, 3, HEIGHT, WIDTH))
    x = _conv(g, _conv(g, x, 12, "stem.0", stride=2), 20, "stem.1", stride=2)
    p3 = _residual(g, _conv(g, x, 40, "down3", stride=2), "block3")
    p4 = _residual(g, _conv(g, p3, 64, "down4", stride=2), "block4")
    p5 = _residual(g, _conv(g, p4, 80, "down5", stride=2), "block5")
    p4 = _conv(g, g.add(p4, g.resize2x(_conv(g, p5, 64, "up5", kernel=1))), 64, "out4")
    p3 = _conv(g, g.add(p3, g.resize2x(_conv(g, p4, 40, "up4", kernel=1))), 40, "out3")
    maps = [p3, p4]
    raw = g.concat([_head(g, x, f"head{i}") for i, x in enumerate(maps)], axis=2)
    distances, scores = g.split(raw, [4, len(CLASSES)])
    return {
        "output0": g.concat([boxes_from_distances(g, g.exp(distances), maps, STRIDES), g.sigmoid(scores)])
    }
