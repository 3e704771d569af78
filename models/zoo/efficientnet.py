"""EfficientNet-Lite (Google, "Higher accuracy on vision models with EfficientNet-Lite", 2020)."""

from __future__ import annotations

from edgec.models.graph import Graph, Value
from edgec.models.zoo.mobilenet import classifier, conv_bn, inverted_residual

# kernel, expansion, channels, repeats, stride of the first
PLAN = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)


def lite0(g: Graph) -> dict[str, Value]:
    """EfficientNet-Lite0: 4.7 M parameters, 407 M multiply-adds (the authors' table); ReLU6, no SE.

    Convolutions and the dense layer alone, which is what is counted here, are 385 M.
    """
    x = g.input("input", (1, 3, 224, 224))
    x = conv_bn(g, x, 32, 3, "stem", stride=2, activation=g.relu6)
    for stage, (kernel, expand, out, repeats, first_stride) in enumerate(PLAN):
        for i in range(repeats):
            with g.scope(f"blocks.{stage}.{i}"):
                x = inverted_residual(g, x, expand, out, first_stride if i == 0 else 1, kernel)
    return classifier(g, conv_bn(g, x, 1280, 1, "head", activation=g.relu6), "classifier")
