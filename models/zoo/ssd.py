"""SSDLite on MobileNetV3-Large at 320×320, as torchvision has it (`ssdlite320_mobilenet_v3_large`).

SSD: Liu et al., ECCV 2016. SSDLite: Sandler et al., CVPR 2018.
"""

from __future__ import annotations

from edgec.models.graph import Graph, Value
from edgec.models.zoo import mobilenetv3
from edgec.models.zoo.mobilenet import conv_bn

CLASSES = 91  # COCO's category ids, 0 is the background
ANCHORS = 6  # of each cell: aspect ratios 1, 1 (between scales), 2, 1/2, 3, 1/3


def _features(g: Graph, x: Value) -> list[Value]:
    """Maps at 20×20 (inside the block that halves the size) and 10×10, then four extra ones down to 1×1."""
    blocks = mobilenetv3.large_blocks(tail_divider=2)
    maps = []
    x = mobilenetv3.stem(g, x)
    for i, block in enumerate(blocks, 1):
        with g.scope(f"features.{i}.block"):
            if i == 13:
                maps.append(mobilenetv3.expand(g, x, block))
                x = mobilenetv3.finish_block(g, maps[0], block, None)
            else:
                x = mobilenetv3.inverted_residual(g, x, block)
    x = conv_bn(g, x, 6 * x.channels, 1, f"features.{len(blocks) + 1}", activation=g.hard_swish)
    maps.append(x)
    for i, out in enumerate((512, 256, 256, 128)):
        with g.scope(f"extra.{i}"):
            x = conv_bn(g, x, out // 2, 1, "0", activation=g.relu6)
            x = conv_bn(g, x, out // 2, 3, "1", stride=2, groups=out // 2, activation=g.relu6)
            x = conv_bn(g, x, out, 1, "2", activation=g.relu6)
            maps.append(x)
    return maps


def _head(g: Graph, maps: list[Value], columns: int, bias: float) -> Value:
    """Predictions of every anchor, `[1, 3234, columns]`: by map (largest first), row, column, anchor."""
    parts = []
    for i, x in enumerate(maps):
        with g.scope(str(i)):
            y = conv_bn(g, x, x.channels, 3, "0", groups=x.channels, activation=g.relu6)
            y = g.conv(y, ANCHORS * columns, 1, "1", bias=bias, gain=1.0)
        n, _, h, w = y.shape
        y = g.transpose(g.reshape(y, (n, ANCHORS, columns, h, w)), 0, 3, 4, 1, 2)
        parts.append(g.reshape(y, (n, h * w * ANCHORS, columns)))
    return g.concat(parts, axis=1)


def ssdlite_mobilenetv3(g: Graph) -> dict[str, Value]:
    """SSDLite320: 3,440,060 parameters, 0.583 G multiply-adds (torchvision).

    `input` [1, 3, 320, 320]; `scores` [1, 3234, 91], softmax with the background first; `boxes`
    [1, 3234, 4], offsets (dx, dy, dw, dh) from the anchors, which the card's decoder knows.
    """
    g.eps = 1e-3
    maps = _features(g, g.input("input", (1, 3, 320, 320)))
    with g.scope("head.classification_head.module_list"):
        scores = g.softmax(_head(g, maps, CLASSES, 0.0))
    with g.scope("head.regression_head.module_list"):
        boxes = _head(g, maps, 4, 0.0)
    return {"scores": scores, "boxes": boxes}
