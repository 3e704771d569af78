"""SqueezeNet 1.1 (Iandola et al., arXiv:1602.07360, and the authors' later release 1.1)."""

from __future__ import annotations

from edgec.models.graph import Graph, Value

GAIN = 3.0  # keeps the scale: ReLU passes half of the values, and filters see only their variation
FIRES = {
    3: (16, 64),
    4: (16, 64),
    6: (32, 128),
    7: (32, 128),
    9: (48, 192),
    10: (48, 192),
    11: (64, 256),
    12: (64, 256),
}


def _fire(g: Graph, x: Value, squeeze: int, expand: int) -> Value:
    x = g.relu(g.conv(x, squeeze, 1, "squeeze", bias=True, gain=GAIN))
    narrow = g.relu(g.conv(x, expand, 1, "expand1x1", bias=True, gain=GAIN))
    wide = g.relu(g.conv(x, expand, 3, "expand3x3", padding=1, bias=True, gain=GAIN))
    return g.concat([narrow, wide])


def squeezenet(g: Graph) -> dict[str, Value]:
    """SqueezeNet 1.1, no batch norm: 1,235,496 parameters, 0.349 G multiply-adds (torchvision)."""
    x = g.input("input", (1, 3, 224, 224))
    x = g.relu(g.conv(x, 64, 3, "features.0", stride=2, bias=True, gain=GAIN))
    for position in range(2, 13):
        if position in FIRES:
            with g.scope(f"features.{position}"):
                x = _fire(g, x, *FIRES[position])
        else:
            x = g.max_pool(x, 3, 2, ceil=True)
    x = g.relu(g.conv(x, 1000, 1, "classifier.1", bias=True, gain=GAIN))
    return {"output": g.flatten(g.global_pool(x))}
