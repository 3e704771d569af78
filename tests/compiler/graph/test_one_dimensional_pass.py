"""Convolutions over one axis as images of height 1: before, expected, numbers."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from edgec.compiler.graph.one_dimensional import widen
from tests.compiler.graph.relax_modules import chain, const, module_of, same_numbers, same_structure

X = {"x": (1, 2, 9)}
WEIGHTS = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
BIAS = np.arange(4, dtype=np.float32).reshape(1, 4, 1)


def conv1d(x):
    return relax.op.nn.conv1d(x, const(WEIGHTS), strides=2, padding=(2, 1))


def conv2d(x):
    return relax.op.nn.conv2d(
        x, const(WEIGHTS[:, :, None]), strides=(1, 2), padding=(0, 2, 0, 1), out_dtype="float32"
    )


def test_a_convolution_and_what_follows_it_work_on_images():
    before = module_of(X, chain(conv1d, lambda x: relax.op.add(x, const(BIAS)), relax.op.nn.relu))
    expected = chain(
        lambda x: relax.op.reshape(x, (1, 2, 1, 9)),
        conv2d,
        lambda x: relax.op.add(x, const(BIAS[:, :, None])),
        relax.op.nn.relu,
        lambda x: relax.op.reshape(x, (1, 4, 5)),
    )
    got = widen(before)
    same_structure(got, module_of(X, expected))
    same_numbers(got, before, 1e-6)


@pytest.mark.parametrize(
    ("flat", "wide", "include"),
    [
        (relax.op.nn.max_pool1d, relax.op.nn.max_pool2d, False),
        (relax.op.nn.avg_pool1d, relax.op.nn.avg_pool2d, False),
        (relax.op.nn.avg_pool1d, relax.op.nn.avg_pool2d, True),
    ],
    ids=["max", "avg", "avg with padding"],
)
def test_poolings_too(flat, wide, include):
    before = module_of(
        X, chain(lambda x: flat(x, pool_size=3, strides=2, padding=(1, 1), count_include_pad=include))
    )
    expected = chain(
        lambda x: relax.op.reshape(x, (1, 2, 1, 9)),
        lambda x: wide(x, pool_size=(1, 3), strides=(1, 2), padding=(0, 1, 0, 1), count_include_pad=include),
        lambda x: relax.op.reshape(x, (1, 2, 5)),
    )
    got = widen(before)
    same_structure(got, module_of(X, expected))
    same_numbers(got, before, 1e-6)


def test_what_is_read_in_both_ranks_has_both_forms():
    def body(builder, x):
        made = builder.emit(conv1d(x))
        summed = builder.emit(relax.op.sum(made, [2], keepdims=True))
        return builder.emit(relax.op.add(made, summed))

    before = module_of(X, body)
    same_numbers(widen(before), before, 1e-6)


def test_weights_that_are_computed_are_left_alone():
    inputs = X | {"w": (4, 2, 3)}
    body = lambda builder, x, w: builder.emit(relax.op.nn.conv1d(x, w))  # noqa: E731
    same_structure(widen(module_of(inputs, body)), module_of(inputs, body))


def test_tensors_of_rank_three_without_a_convolution_stay_as_they_are():
    body = chain(relax.op.nn.relu, lambda x: relax.op.add(x, const(np.ones((2, 1)))))
    same_structure(widen(module_of(X, body)), module_of(X, body))
