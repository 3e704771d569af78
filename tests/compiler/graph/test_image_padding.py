"""Padding in front of a convolution: which becomes the convolution's own, and the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from edgec.compiler.graph.simplify import simplify
from tests.compiler.graph.relax_modules import chain, const, module_of, same_numbers, same_structure

WEIGHTS = np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(np.float32)
AROUND = [0, 0, 0, 0, 1, 2, 0, 3]  # one row above, two below, three columns at the right


def conv(weights=WEIGHTS, **attributes):
    return lambda x: relax.op.nn.conv2d(x, const(weights), **attributes)


def turned(x):
    return relax.op.permute_dims(x, [0, 3, 1, 2])


@pytest.mark.parametrize("last", [False, True])
def test_zeros_around_an_image_are_padding_of_the_convolution(last):
    if last:
        image = {"x": (1, 6, 7, 2)}
        before = chain(
            lambda x: relax.op.nn.pad(x, [0, 0, 1, 2, 0, 3, 0, 0]), turned, conv(strides=2, padding=1)
        )
        expected = chain(turned, conv(strides=2, padding=[2, 1, 3, 4]))
    else:
        image = {"x": (1, 2, 6, 7)}
        before = chain(lambda x: relax.op.nn.pad(x, AROUND), conv(strides=2, padding=1))
        expected = chain(conv(strides=2, padding=[2, 1, 3, 4]))
    got = simplify(module_of(image, before))
    same_structure(got, module_of(image, expected))
    same_numbers(got, module_of(image, before), 1e-6)


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: relax.op.nn.pad(x, AROUND, pad_value=1.0),
        lambda x: relax.op.nn.pad(x, AROUND, "edge"),
        lambda x: relax.op.nn.pad(x, [0, 0, 0, 1, *AROUND[4:]]),
    ],
)
def test_other_paddings_stay(pad):
    weights = WEIGHTS[:, :1].repeat(3, 1)
    image = {"x": (1, 2, 6, 7)}
    wide = pad(relax.Var("x", relax.TensorType((1, 2, 6, 7), "float32")))
    channels = 3 if list(wide.attrs.pad_width)[3] else 2
    before = chain(pad, conv(weights[:, :channels]))
    same_structure(simplify(module_of(image, before)), module_of(image, before))


def test_weights_that_are_not_finite_still_meet_the_zeros():
    weights = WEIGHTS.copy()
    weights[0, 0, 0, 0] = np.inf
    before = chain(lambda x: relax.op.nn.pad(x, AROUND), conv(weights))
    image = {"x": (1, 2, 6, 7)}
    same_structure(simplify(module_of(image, before)), module_of(image, before))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_amount_and_stride(data):
    widths = data.draw(st.lists(st.integers(0, 4), min_size=4, max_size=4))
    stride, dilation = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    groups = data.draw(st.sampled_from([1, 2]))
    weights = WEIGHTS[:2, : 2 // groups]
    image = {"x": (2, 2, data.draw(st.integers(5, 9)), data.draw(st.integers(5, 9)))}
    before = chain(
        lambda x: relax.op.nn.pad(x, [0, 0, 0, 0, *widths]),
        conv(weights, strides=stride, dilation=dilation, groups=groups, padding=[1, 0, 0, 1]),
    )
    same_numbers(simplify(module_of(image, before)), module_of(image, before), 1e-5)
