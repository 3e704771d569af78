"""The importer's output in the form that later passes look for: before, expected, and the same numbers."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from tvm import relax, topi

from edgec.compiler.graph.simplify import simplify
from tests.compiler.graph.relax_modules import chain, const, module_of, same_numbers, same_structure

IMAGE = {"x": (1, 2, 5, 5)}
WEIGHTS = np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(np.float32)
FACTOR = np.array([2.0, 0.5, -4.0], np.float32).reshape(1, 3, 1, 1)
SHIFT = np.array([1.0, -2.0, 8.0], np.float32).reshape(1, 3, 1, 1)


def conv(weights=WEIGHTS):
    return lambda x: relax.op.nn.conv2d(x, const(weights), padding=1)


def test_a_batch_norm_becomes_a_factor_and_a_shift():
    gamma, beta, mean, variance = ([2.0, 1.0], [1.0, 0.0], [4.0, 0.5], [3.0, 0.0])

    def before(builder, x):
        arrays = (const(a) for a in (gamma, beta, mean, variance))
        normal = builder.emit(relax.op.nn.batch_norm(x, *arrays, axis=1, epsilon=1.0, training=False))
        return builder.emit(relax.TupleGetItem(normal, 0))

    factor, shift = np.array([1.0, 1.0]), np.array([-3.0, -0.5])
    expected = chain(
        lambda x: relax.op.multiply(x, const(factor.reshape(1, 2, 1, 1))),
        lambda x: relax.op.add(x, const(shift.reshape(1, 2, 1, 1))),
    )
    got = simplify(module_of(IMAGE, before))
    same_structure(got, module_of(IMAGE, expected))
    same_numbers(got, module_of(IMAGE, before), 1e-6)


def test_a_factor_goes_into_the_weights_and_shifts_into_one_bias():
    before = chain(
        conv(),
        lambda x: relax.op.add(x, const(SHIFT)),
        lambda x: relax.op.multiply(x, const(FACTOR)),
        lambda x: relax.op.subtract(x, const(4.0)),
        relax.op.nn.relu,
    )
    expected = chain(
        conv(WEIGHTS * FACTOR.reshape(3, 1, 1, 1)),
        lambda x: relax.op.add(x, const(SHIFT * FACTOR - 4.0)),
        relax.op.nn.relu,
    )
    got = simplify(module_of(IMAGE, before))
    same_structure(got, module_of(IMAGE, expected))
    same_numbers(got, module_of(IMAGE, before), 1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_factor_goes_into_the_weights_of_a_transposed_convolution(groups):
    weights = np.random.default_rng(1).standard_normal((4, 4 // groups, 2, 2)).astype(np.float32)
    factor = np.array([2.0, 0.5, -4.0, 8.0], np.float32).reshape(1, 4, 1, 1)
    before = module_of(
        {"x": (1, 4, 3, 3)},
        chain(
            lambda x: relax.op.nn.conv2d_transpose(x, const(weights), strides=(2, 2), groups=groups),
            lambda x: relax.op.multiply(x, const(factor)),
        ),
    )
    per_input = np.repeat(factor.reshape(groups, -1), 4 // groups, axis=0)[:, :, None, None]
    expected = chain(
        lambda x: relax.op.nn.conv2d_transpose(x, const(weights * per_input), strides=(2, 2), groups=groups)
    )
    same_structure(simplify(before), module_of({"x": (1, 4, 3, 3)}, expected))


def test_a_depthwise_convolution_of_single_pixels_is_a_factor():
    """It goes on into the weights of what comes before."""
    factors = FACTOR.reshape(3, 1, 1, 1)
    before = chain(conv(), lambda x: relax.op.nn.conv2d(x, const(factors), groups=3), relax.op.nn.relu)
    expected = chain(conv(WEIGHTS * factors), relax.op.nn.relu)
    got = simplify(module_of(IMAGE, before))
    same_structure(got, module_of(IMAGE, expected))
    same_numbers(got, module_of(IMAGE, before), 1e-6)


@pytest.mark.parametrize("wide", [{"padding": 1}, {"strides": 2}])
def test_a_depthwise_convolution_that_pads_or_strides_stays_one(wide):
    factors = const(FACTOR.reshape(3, 1, 1, 1)[:2])
    before = module_of(IMAGE, chain(lambda x: relax.op.nn.conv2d(x, factors, groups=2, **wide)))
    same_structure(simplify(before), before)


def test_a_result_that_is_read_twice_keeps_its_weights():
    def body(builder, x):
        made = builder.emit(conv()(x))
        scaled = builder.emit(relax.op.multiply(made, const(FACTOR)))
        return builder.emit(relax.op.add(made, scaled))

    same_structure(simplify(module_of(IMAGE, body)), module_of(IMAGE, body))


def test_a_map_over_positions_is_no_bias():
    places = np.arange(25, dtype=np.float32).reshape(1, 1, 5, 5)
    body = chain(conv(), lambda x: relax.op.add(x, const(places)))
    same_structure(simplify(module_of(IMAGE, body)), module_of(IMAGE, body))


def test_only_divisions_that_lose_nothing_become_products():
    before = chain(lambda x: relax.op.divide(x, const([4.0])), lambda x: relax.op.divide(x, const(3.0)))
    expected = chain(lambda x: relax.op.multiply(x, const(0.25)), lambda x: relax.op.divide(x, const(3.0)))
    same_structure(simplify(module_of(IMAGE, before)), module_of(IMAGE, expected))


def test_an_error_function_of_a_quotient_takes_a_product():
    root = np.float32(sqrt(2))
    before = chain(lambda x: relax.op.divide(x, const(root)), relax.op.erf)
    expected = chain(lambda x: relax.op.multiply(x, const(np.float32(1) / root)), relax.op.erf)
    got = simplify(module_of(IMAGE, before))
    same_structure(got, module_of(IMAGE, expected))
    same_numbers(got, module_of(IMAGE, before), 1e-6)


def test_constants_alone_are_computed():
    expected = chain(
        lambda x: relax.op.add(x, const([2.0, 3.0])), lambda x: relax.op.multiply(x, const([[3.0, 3.0]]))
    )

    def before(builder, x):
        root = builder.emit(relax.op.sqrt(const([4.0, 9.0])))
        x = builder.emit(relax.op.add(x, root))
        three = builder.emit(relax.op.reshape(const(np.ones((2, 1)) * 3), (1, 2)))
        return builder.emit(relax.op.multiply(x, three))

    same_structure(simplify(module_of({"x": (4, 2)}, before)), module_of({"x": (4, 2)}, expected))


def test_the_importers_clip_is_a_maximum_and_a_minimum():
    def before(builder, x):
        x = builder.emit_te(topi.maximum, x, const(0.0), primfunc_name_hint="maximum")
        return builder.emit_te(topi.minimum, x, const(6.0), primfunc_name_hint="minimum")

    expected = chain(lambda x: relax.op.maximum(x, const(0.0)), lambda x: relax.op.minimum(x, const(6.0)))
    same_structure(simplify(module_of(IMAGE, before)), module_of(IMAGE, expected))
