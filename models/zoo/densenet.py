"""DenseNet (Huang et al., CVPR 2017), as torchvision has it."""

from __future__ import annotations

from edgec.models.graph import Graph, Value

GROWTH = 32


def _layer(g: Graph, features: list[Value]) -> Value:
    x = features[0] if len(features) == 1 else g.concat(features)
    x = g.conv(g.relu(g.batch_norm(x, "norm1")), 4 * GROWTH, 1, "conv1")
    return g.conv(g.relu(g.batch_norm(x, "norm2")), GROWTH, 3, "conv2", padding=1, gain=1.0)


def densenet121(g: Graph) -> dict[str, Value]:
    """DenseNet-121: 7,978,856 parameters, 2.834 G multiply-adds (torchvision)."""
    x = g.input("input", (1, 3, 224, 224))
    with g.scope("features"):
        x = g.relu(g.batch_norm(g.conv(x, 64, 7, "conv0", stride=2, padding=3), "norm0"))
        x = g.max_pool(x, 3, 2, 1)
        for block, layers in enumerate((6, 12, 24, 16), 1):
            features = [x]
            for i in range(layers):
                with g.scope(f"denseblock{block}.denselayer{i + 1}"):
                    features.append(_layer(g, features))
            x = g.concat(features)
            if block < 4:
                with g.scope(f"transition{block}"):
                    x = g.conv(g.relu(g.batch_norm(x, "norm")), x.channels // 2, 1, "conv", gain=1.0)
                    x = g.avg_pool(x, 2, 2)
        x = g.relu(g.batch_norm(x, "norm5"))
    return {"output": g.dense(g.flatten(g.global_pool(x)), 1000, "classifier")}
