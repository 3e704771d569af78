"""Small networks on log-mel spectra: the keyword spotter and the sound-event model trained here."""

from __future__ import annotations

from edgec.models.graph import Graph, Value

FRAMES = 49
FIRST = 32
BLOCKS = ((48, 2), (64, 1), (80, 2), (80, 1), (80, 1))
"""Width and stride of each depthwise separable block."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KEYWORDS = (*DIGITS, "_silence_", "_unknown_")
KEYWORD_MELS = 40
EVENT_MELS = 64


def _network(g: Graph, mels: int, classes: int) -> dict[str, Value]:
    """`input` [1, 1, 49, mels] to `output` [1, classes], logits."""
    x = g.input("input", (1, 1, FRAMES, mels))
    with g.scope("stem"):
        x = g.relu(g.batch_norm(g.conv(x, FIRST, 5, "conv", stride=2, padding=2), "bn"))
    for i, (out, stride) in enumerate(BLOCKS):
        with g.scope(f"blocks.{i}"):
            x = g.conv(x, x.channels, 3, "depthwise", stride=stride, padding=1, groups=x.channels)
            x = g.relu(g.batch_norm(x, "bn1"))
            x = g.relu(g.batch_norm(g.conv(x, out, 1, "pointwise"), "bn2"))
    return {"output": g.dense(g.flatten(g.global_pool(x)), classes, "fc")}


def keywords(g: Graph) -> dict[str, Value]:
    """Ten spoken digits, silence and unknown."""
    return _network(g, KEYWORD_MELS, len(KEYWORDS))


def events(g: Graph) -> dict[str, Value]:
    """Alarm, breaking glass, knocks and speech-like sound, each on its own."""
    return _network(g, EVENT_MELS, 4)
