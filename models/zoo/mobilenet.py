"""MobileNets and EfficientNet-Lite: networks of depthwise separable and inverted residual blocks."""

from __future__ import annotations

from collections.abc import Callable

from edgec.models.graph import Graph, Value

Activation = Callable[[Value], Value]


def conv_bn(
    g: Graph,
    x: Value,
    out: int,
    kernel: int,
    name: str,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Activation | None = None,
    gain: float = 1.0,
) -> Value:
    """Convolution (odd kernel, padded by half of it), batch norm and activation: `name.0`, `name.1`."""
    with g.scope(name):
        x = g.conv(x, out, kernel, "0", stride=stride, padding=(kernel - 1) // 2, groups=groups)
        x = g.batch_norm(x, "1", gain=gain)
        return activation(x) if activation else x


def classifier(g: Graph, x: Value, name: str = "classifier.1") -> dict[str, Value]:
    """Global average and a dense layer to 1000 logits `output`."""
    return {"output": g.dense(g.flatten(g.global_pool(x)), 1000, name)}


def mobilenetv1(g: Graph) -> dict[str, Value]:
    """MobileNet 1.0 (Howard et al., arXiv:1704.04861, table 1): 4.2 M parameters, 569 M multiply-adds."""
    x = g.input("input", (1, 3, 224, 224))
    x = conv_bn(g, x, 32, 3, "features.0", stride=2, activation=g.relu)
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for i, (out, stride) in enumerate(plan, 1):
        with g.scope(f"features.{i}"):
            x = conv_bn(g, x, x.channels, 3, "dw", stride=stride, groups=x.channels, activation=g.relu)
            x = conv_bn(g, x, out, 1, "pw", activation=g.relu)
    return classifier(g, x, "classifier")


def mobilenetv2(g: Graph) -> dict[str, Value]:
    """MobileNetV2 1.0 (Sandler et al., CVPR 2018): 3,504,872 parameters, 0.301 G MACs (torchvision)."""
    plan = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    x = g.input("input", (1, 3, 224, 224))
    x = conv_bn(g, x, 32, 3, "features.0", stride=2, activation=g.relu6)
    number = 1
    for expand, out, repeats, first_stride in plan:
        for i in range(repeats):
            with g.scope(f"features.{number}.conv"):
                x = inverted_residual(g, x, expand, out, first_stride if i == 0 else 1)
            number += 1
    return classifier(g, conv_bn(g, x, 1280, 1, f"features.{number}", activation=g.relu6))


def inverted_residual(g: Graph, x: Value, expand: int, out: int, stride: int, kernel: int = 3) -> Value:
    """Expand 1×1, depthwise, project 1×1, ReLU6; added to its input where shapes allow."""
    hidden = x.channels * expand
    residual = stride == 1 and x.channels == out
    y = conv_bn(g, x, hidden, 1, "0", activation=g.relu6) if expand != 1 else x
    y = conv_bn(g, y, hidden, kernel, "1", stride=stride, groups=hidden, activation=g.relu6)
    y = conv_bn(g, y, out, 1, "2", gain=0.5 if residual else 1.0)
    return g.add(x, y) if residual else y
