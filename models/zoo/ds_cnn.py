"""DS-CNN, the keyword spotter of MLPerf Tiny (Banbury et al., 2021; Zhang et al., arXiv:1711.07128)."""

from __future__ import annotations

from edgec.models.graph import Graph, Value

WIDTH = 64
KEYWORDS = 12


def ds_cnn(g: Graph) -> dict[str, Value]:
    """DS-CNN: 23,756 trainable parameters (24,908 with statistics), 2.7 M multiply-adds (MLPerf Tiny).

    `input` is 49 frames of 10 MFCC, `[1, 1, 49, 10]`; `output` `[1, 12]`, softmax.
    """
    x = g.input("input", (1, 1, 49, 10))
    x = g.conv(x, WIDTH, (10, 4), "conv", stride=2, padding=(4, 1, 5, 1), bias=True)
    x = g.relu(g.batch_norm(x, "bn"))
    for i in range(4):
        with g.scope(f"blocks.{i}"):
            x = g.conv(x, WIDTH, 3, "depthwise", padding=1, groups=WIDTH, bias=True)
            x = g.relu(g.batch_norm(x, "bn1"))
            x = g.relu(g.batch_norm(g.conv(x, WIDTH, 1, "pointwise", bias=True), "bn2"))
    x = g.avg_pool(x, (x.shape[2], x.shape[3]), (x.shape[2], x.shape[3]))
    return {"output": g.softmax(g.dense(g.flatten(x), KEYWORDS, "fc"))}
