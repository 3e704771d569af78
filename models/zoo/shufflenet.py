"""ShuffleNetV2 (Ma et al., ECCV 2018), as torchvision has it."""

from __future__ import annotations

from edgec.models.graph import Graph, Value


def _conv_bn(g: Graph, x: Value, out: int, kernel: int, at: int, stride: int = 1, groups: int = 1) -> Value:
    y = g.conv(x, out, kernel, str(at), stride=stride, padding=(kernel - 1) // 2, groups=groups)
    return g.batch_norm(y, str(at + 1))


def _branch(g: Graph, x: Value, out: int, stride: int) -> Value:
    with g.scope("branch2"):
        y = g.relu(_conv_bn(g, x, out, 1, 0))
        y = _conv_bn(g, y, out, 3, 3, stride, groups=out)
        return g.relu(_conv_bn(g, y, out, 1, 5))


def _downsample(g: Graph, x: Value, out: int) -> Value:
    with g.scope("branch1"):
        y = _conv_bn(g, x, x.channels, 3, 0, stride=2, groups=x.channels)
        y = g.relu(_conv_bn(g, y, out // 2, 1, 2))
    return g.channel_shuffle(g.concat([y, _branch(g, x, out // 2, 2)]), 2)


def _basic(g: Graph, x: Value) -> Value:
    half = x.channels // 2
    kept, changed = g.split(x, [half, half])
    return g.channel_shuffle(g.concat([kept, _branch(g, changed, half, 1)]), 2)


def shufflenetv2(g: Graph) -> dict[str, Value]:
    """ShuffleNetV2 1.0: 2,278,604 parameters, 0.145 G multiply-adds (torchvision)."""
    x = g.input("input", (1, 3, 224, 224))
    with g.scope("conv1"):
        x = g.relu(_conv_bn(g, x, 24, 3, 0, stride=2))
    x = g.max_pool(x, 3, 2, 1)
    for stage, repeats, out in ((2, 4, 116), (3, 8, 232), (4, 4, 464)):
        for i in range(repeats):
            with g.scope(f"stage{stage}.{i}"):
                x = _basic(g, x) if i else _downsample(g, x, out)
    with g.scope("conv5"):
        x = g.relu(_conv_bn(g, x, 1024, 1, 0))
    return {"output": g.dense(g.flatten(g.global_pool(x)), 1000, "fc")}
