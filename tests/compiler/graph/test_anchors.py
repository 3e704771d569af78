"""Specifications as text: equal ones are equal texts, and come back as they were."""

from edgec.compiler.graph.anchors import decode, encode


def test_a_specification_comes_back_with_tuples_at_any_depth():
    fields = {"pad": (1, (2, 3)), "window": {"kernel": (3, 3)}, "scale": 0.1, "mask": None}
    assert decode(encode("conv2d", fields)) == ("conv2d", fields)


def test_equal_specifications_are_equal_texts():
    assert encode("conv2d", {"a": 1, "b": (2,)}) == encode("conv2d", {"b": [2], "a": 1})
    assert encode("conv2d", {"a": 1}) != encode("dense", {"a": 1})
