"""The card itself: labels by class, and what is optional."""

from __future__ import annotations

import msgspec

from edgec.runtime.card import ModelCard, Raw


def test_a_class_without_a_label_is_its_number() -> None:
    card = msgspec.convert({"input": {"kind": "tensor"}, "labels": ["cat"]}, ModelCard)
    assert [card.label(number) for number in (0, 1, -1)] == ["cat", "1", "-1"]
    assert isinstance(card.output, Raw)
