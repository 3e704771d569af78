"""Layer normalisations that a model spells out: every spelling is one operator and computes the same."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from edgec.compiler.graph.rewrite import op_name
from edgec.compiler.graph.simplify import simplify
from tests.compiler.graph.relax_modules import bindings_of, const, module_of, same_numbers

SHAPE = {"x": (2, 5, 24)}
RNG = np.random.default_rng(3)
FACTOR, SHIFT = RNG.standard_normal((2, 24))
op = relax.op


def _mean(x):
    return op.mean(x, axis=[-1], keepdims=True)


def _parts(builder, x, *, centred=True):
    mean = builder.emit(_mean(x))
    distance = builder.emit(op.subtract(x, mean)) if centred else x
    power = builder.emit(
        op.add(builder.emit(_mean(builder.emit(op.multiply(distance, distance)))), const(1e-3))
    )
    return mean, distance, power


def onnx(builder, x):
    """As exporters to operator sets below 17 write it: a quotient, a factor and a shift."""
    _, distance, power = _parts(builder, x)
    normal = builder.emit(op.divide(distance, builder.emit(op.sqrt(power))))
    return builder.emit(op.add(builder.emit(op.multiply(normal, const(FACTOR))), const(SHIFT)))


def lite(builder, x):
    """As TensorFlow Lite's `RSQRT` is imported; the factors have two more axes."""
    _, distance, power = _parts(builder, x)
    inverse = builder.emit(op.divide(const(1.0), builder.emit(op.sqrt(power))))
    normal = builder.emit(op.multiply(distance, inverse))
    factor, shift = const(FACTOR.reshape(1, 1, 24)), const(SHIFT.reshape(1, 24))
    return builder.emit(op.add(shift, builder.emit(op.multiply(factor, normal))))


def keras(builder, x):
    """The mean and the shift meet before the input does."""
    mean, _, power = _parts(builder, x)
    inverse = builder.emit(op.multiply(builder.emit(op.rsqrt(power)), const(FACTOR)))
    rest = builder.emit(op.subtract(const(SHIFT), builder.emit(op.multiply(mean, inverse))))
    return builder.emit(op.add(builder.emit(op.multiply(x, inverse)), rest))


def twice(builder, x):
    """The distances are computed for the variance and again for the quotient."""
    _, _, power = _parts(builder, x)
    distance = builder.emit(op.subtract(x, builder.emit(_mean(x))))
    return builder.emit(op.divide(distance, builder.emit(op.sqrt(power))))


def root_mean_square(builder, x):
    _, _, power = _parts(builder, x, centred=False)
    return builder.emit(
        op.multiply(const(FACTOR), builder.emit(op.multiply(x, builder.emit(op.rsqrt(power)))))
    )


@pytest.mark.parametrize("body", [onnx, lite, keras, twice, root_mean_square])
def test_is_one_operator(body):
    before = module_of(SHAPE, body)
    got = simplify(before)
    wanted = "nn.rms_norm" if body is root_mean_square else "nn.layer_norm"
    assert [name for b in bindings_of(got) if (name := op_name(b.value))] == [wanted]
    same_numbers(got, before, 1e-5)


def test_a_normal_that_is_read_before_its_factor_stays():
    def body(builder, x):
        _, distance, power = _parts(builder, x)
        normal = builder.emit(op.divide(distance, builder.emit(op.sqrt(power))))
        return builder.emit(op.add(builder.emit(op.multiply(normal, const(FACTOR))), op.tanh(normal)))

    before = module_of(SHAPE, body)
    got = simplify(before)
    assert "nn.layer_norm" in [op_name(b.value) for b in bindings_of(got)]
    same_numbers(got, before, 1e-5)


def _along_rows(builder, x):
    mean = builder.emit(op.mean(x, axis=[1], keepdims=True))
    distance = builder.emit(op.subtract(x, mean))
    power = builder.emit(op.mean(builder.emit(op.multiply(distance, distance)), axis=[1], keepdims=True))
    return builder.emit(op.divide(distance, builder.emit(op.sqrt(op.add(power, const(1e-3))))))


def _of_another(builder, x):
    _, _, power = _parts(builder, x)
    return builder.emit(op.divide(x, builder.emit(op.sqrt(power))))


@pytest.mark.parametrize("body", [_along_rows, _of_another])
def test_what_only_looks_like_one_stays(body):
    before = module_of(SHAPE, body)
    got = simplify(before)
    assert not {"nn.layer_norm", "nn.rms_norm"} & {op_name(b.value) for b in bindings_of(got)}
    same_numbers(got, before, 1e-5)
