"""ResNet (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016), as torchvision has it."""

from __future__ import annotations

from edgec.models.graph import Graph, Value

STAGES = (64, 128, 256, 512)


def _shortcut(g: Graph, x: Value, out: int, stride: int) -> Value:
    if stride == 1 and x.channels == out:
        return x
    with g.scope("downsample"):
        return g.batch_norm(g.conv(x, out, 1, "0", stride=stride), "1")


def _basic(g: Graph, x: Value, width: int, stride: int) -> Value:
    y = g.relu(g.batch_norm(g.conv(x, width, 3, "conv1", stride=stride, padding=1), "bn1"))
    y = g.batch_norm(g.conv(y, width, 3, "conv2", padding=1), "bn2", gain=0.5)
    return g.relu(g.add(y, _shortcut(g, x, width, stride)))


def _bottleneck(g: Graph, x: Value, width: int, stride: int) -> Value:
    y = g.relu(g.batch_norm(g.conv(x, width, 1, "conv1"), "bn1"))
    y = g.relu(g.batch_norm(g.conv(y, width, 3, "conv2", stride=stride, padding=1), "bn2"))
    y = g.batch_norm(g.conv(y, 4 * width, 1, "conv3"), "bn3", gain=0.3)
    return g.relu(g.add(y, _shortcut(g, x, 4 * width, stride)))


def resnet(g: Graph, depths: tuple[int, int, int, int], bottleneck: bool) -> dict[str, Value]:
    """Build a ResNet on `input` [1, 3, 224, 224]; the result is `output` [1, 1000], logits."""
    block = _bottleneck if bottleneck else _basic
    x = g.input("input", (1, 3, 224, 224))
    x = g.relu(g.batch_norm(g.conv(x, 64, 7, "conv1", stride=2, padding=3), "bn1"))
    x = g.max_pool(x, 3, 2, 1)
    for stage, (depth, width) in enumerate(zip(depths, STAGES, strict=True)):
        for i in range(depth):
            with g.scope(f"layer{stage + 1}.{i}"):
                x = block(g, x, width, 2 if stage and not i else 1)
    return {"output": g.dense(g.flatten(g.global_pool(x)), 1000, "fc")}


def resnet18(g: Graph) -> dict[str, Value]:
    """ResNet-18: 11,689,512 parameters, 1.814 G multiply-adds (torchvision)."""
    return resnet(g, (2, 2, 2, 2), bottleneck=False)


def resnet50(g: Graph) -> dict[str, Value]:
    """ResNet-50 (stride in the 3×3): 25,557,032 parameters, 4.089 G multiply-adds (torchvision)."""
    return resnet(g, (3, 4, 6, 3), bottleneck=True)
