"""A detector of the form of YOLOv8n (Ultralytics, 2023): C2f blocks, SPPF, a head of box distributions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgec.models.graph import Graph, Value

Floats = NDArray[np.float32]
CLASSES = 80
BINS = 16
STRIDES = (8, 16, 32)


def _conv(g: Graph, x: Value, out: int, kernel: int, name: str, stride: int = 1) -> Value:
    with g.scope(name):
        y = g.conv(x, out, kernel, "conv", stride=stride, padding=(kernel - 1) // 2)
        return g.silu(g.batch_norm(y, "bn"))


def _c2f(g: Graph, x: Value, out: int, repeats: int, shortcut: bool, name: str) -> Value:
    """Cross-stage block: half of the channels go through `repeats` bottlenecks, every step is kept."""
    with g.scope(name):
        half = out // 2
        steps = g.split(_conv(g, x, out, 1, "cv1"), [half, half])
        for i in range(repeats):
            with g.scope(f"m.{i}"):
                y = _conv(g, _conv(g, steps[-1], half, 3, "cv1"), half, 3, "cv2")
                steps.append(g.add(steps[-1], y) if shortcut else y)
        return _conv(g, g.concat(steps), out, 1, "cv2")


def _sppf(g: Graph, x: Value, out: int, name: str) -> Value:
    """Three max pools of 5 in a row, all kept: windows of 5, 9 and 13."""
    with g.scope(name):
        steps = [_conv(g, x, x.channels // 2, 1, "cv1")]
        for _ in range(3):
            steps.append(g.max_pool(steps[-1], 5, 1, 2))
        return _conv(g, g.concat(steps), out, 1, "cv2")


def _backbone(g: Graph, x: Value) -> tuple[Value, Value, Value]:
    x = _conv(g, _conv(g, x, 16, 3, "model.0", 2), 32, 3, "model.1", 2)
    x = _c2f(g, x, 32, 1, True, "model.2")
    p3 = _c2f(g, _conv(g, x, 64, 3, "model.3", 2), 64, 2, True, "model.4")
    p4 = _c2f(g, _conv(g, p3, 128, 3, "model.5", 2), 128, 2, True, "model.6")
    x = _c2f(g, _conv(g, p4, 256, 3, "model.7", 2), 256, 1, True, "model.8")
    return p3, p4, _sppf(g, x, 256, "model.9")


def _neck(g: Graph, p3: Value, p4: Value, p5: Value) -> list[Value]:
    up4 = _c2f(g, g.concat([g.resize2x(p5), p4]), 128, 1, False, "model.12")
    out3 = _c2f(g, g.concat([g.resize2x(up4), p3]), 64, 1, False, "model.15")
    out4 = _c2f(g, g.concat([_conv(g, out3, 64, 3, "model.16", 2), up4]), 128, 1, False, "model.18")
    out5 = _c2f(g, g.concat([_conv(g, out4, 128, 3, "model.19", 2), p5]), 256, 1, False, "model.21")
    return [out3, out4, out5]


def _branch(g: Graph, x: Value, width: int, out: int, bias: float, name: str) -> Value:
    with g.scope(name):
        y = _conv(g, _conv(g, x, width, 3, "0"), width, 3, "1")
        y = g.conv(y, out, 1, "2", bias=bias, gain=1.0)
    return g.reshape(y, (1, out, y.shape[2] * y.shape[3]))


def _boxes(g: Graph, raw: Value, maps: list[Value]) -> Value:
    """From distributions of distances `[1, 64, A]` to centre and size in pixels, `[1, 4, A]`."""
    count = raw.shape[2]
    bins = g.transpose(g.reshape(raw, (1, 4, BINS, count)), 0, 2, 1, 3)
    with g.scope("dfl"):
        # The expectation over the bins: a fixed 1×1 convolution with the weights 0 … 15.
        path, weight = g.parameter(
            "conv.weight", lambda _: np.arange(BINS, dtype=np.float32).reshape(1, BINS, 1, 1)
        )
        g.count(4 * count * weight.size)
        expected = g.node(
            "Conv", [g.softmax(bins, 1).name, path], [(1, 1, 4, count)], "conv", kernel_shape=[1, 1]
        )[0]
    return boxes_from_distances(g, g.reshape(expected, (1, 4, count)), maps, STRIDES)


def boxes_from_distances(g: Graph, distances: Value, maps: list[Value], strides: tuple[int, ...]) -> Value:
    """From distances to left, top, right, bottom in strides to centre and size in pixels, `[1, 4, A]`."""
    near, far = g.split(distances, [2, 2])
    centres, steps = anchor_points(maps, strides)
    count = centres.shape[2]
    points = Value(g.constant("anchor_points", centres), (1, 2, count))
    low, high = g.sub(points, near), g.add(points, far)
    corners = g.concat([g.scale(g.add(low, high), 0.5), g.sub(high, low)])
    return g.mul(corners, Value(g.constant("strides", steps), (1, 1, count)))


def anchor_points(maps: list[Value], strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Centres of all cells in units of their stride `[1, 2, A]` (x, y), and the strides `[1, 1, A]`."""
    centres, steps = [], []
    for x, stride in zip(maps, strides, strict=True):
        rows, columns = np.mgrid[0 : x.shape[2], 0 : x.shape[3]].astype(np.float32) + np.float32(0.5)
        centres.append(np.stack([columns.reshape(-1), rows.reshape(-1)]))
        steps.append(np.full((1, rows.size), stride, np.float32))
    return np.concatenate(centres, 1)[None], np.concatenate(steps, 1)[None]


def _yolov8n(g: Graph, size: int) -> dict[str, Value]:
    g.eps = 1e-3
    maps = _neck(g, *_backbone(g, g.input("images", (1, 3, size, size))))
    with g.scope("model.22"):
        boxes = [_branch(g, x, 64, 4 * BINS, 1.0, f"cv2.{i}") for i, x in enumerate(maps)]
        scores = [_branch(g, x, 80, CLASSES, -8.0, f"cv3.{i}") for i, x in enumerate(maps)]
        decoded = _boxes(g, g.concat(boxes, axis=2), maps)
        return {"output0": g.concat([decoded, g.sigmoid(g.concat(scores, axis=2))])}


def at_640(g: Graph) -> dict[str, Value]:
    """At 640×640: 3,157,200 parameters (16 of them fixed bins), 8.7 GFLOPs = 4.37 G MACs (Ultralytics).

    `output0` is `[1, 84, 8400]`: centre x, centre y, width, height in pixels, then 80 class scores.
    """
    return _yolov8n(g, 640)


def at_320(g: Graph) -> dict[str, Value]:
    """At 320×320, a quarter of the multiply-adds; `output0` is `[1, 84, 2100]`."""
    return _yolov8n(g, 320)
