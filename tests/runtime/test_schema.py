"""Faults in documents are told by key, with what would be valid."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest

from edgec.runtime.schema import Fault, Part, StrictPart, fault_of


class Leaf(StrictPart, kw_only=True, tag_field="kind", tag="leaf"):
    side: Literal["left", "right"] = "left"


class Fruit(StrictPart, kw_only=True, tag_field="kind", tag="fruit"):
    seeds: int


class Tree(StrictPart, kw_only=True):
    height: float
    parts: tuple[Leaf | Fruit, ...] = ()


def fault(document: dict[str, Any]) -> Fault:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(document, Tree)
    return fault_of(caught.value, document, Tree)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"height": 2, "width": 3}, Fault(("width",), "unknown key")),
        ({}, Fault(("height",), "required, and missing")),
        ({"height": "tall"}, Fault(("height",), "expected float, got str")),
        (
            {"height": 2, "parts": [{"kind": "leaf"}, {"kind": "leaf", "side": "top"}]},
            Fault(("parts", "1", "side"), "expected 'left' or 'right', not 'top'"),
        ),
        (
            {"height": 2, "parts": [{"kind": "root"}]},
            Fault(("parts", "0", "kind"), "expected 'leaf' or 'fruit', not 'root'"),
        ),
    ],
)
def test_a_fault_names_the_key_and_what_is_valid(document: dict[str, Any], expected: Fault) -> None:
    assert fault(document) == expected


def test_a_part_ignores_and_a_strict_part_refuses_unknown_keys() -> None:
    class Loose(Part, kw_only=True):
        height: float

    assert msgspec.convert({"height": 1, "width": 2}, Loose).height == 1
    with pytest.raises(msgspec.ValidationError, match="width"):
        msgspec.convert({"height": 1, "width": 2}, Tree)
