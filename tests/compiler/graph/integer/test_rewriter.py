"""Rewritten graphs against exact integer arithmetic, over generated shapes, scales and zero points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from edgec.compiler.frontends.relax.builder import constant
from edgec.compiler.graph.integer import in_integers
from edgec.compiler.graph.rewrite import dtype_of, op_name
from tests.compiler.graph.integer.graphs import Net, coded, decoded, real, steps
from tests.compiler.graph.integer.numpy_relax import run

Array = np.ndarray
TIE = 1e-3  # of a step: nearer to an edge between two integers, either may come out
BYTES = ("uint8", "int8")
EXAMPLES = settings(max_examples=60, deadline=None)
scales = st.floats(2.0**-14, 2.0**4, width=32)


def zeros(dtype: str) -> st.SearchStrategy[int]:
    limits = np.iinfo(dtype)
    return st.sampled_from([int(limits.min), int(limits.max), 0]) | st.integers(
        int(limits.min), int(limits.max)
    )


def stored(draw: Any, shape: tuple[int, ...], dtype: str) -> Array:
    """Integers of a type: anything, or its extremes only."""
    limits, rng = np.iinfo(dtype), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        return rng.integers(int(limits.min), int(limits.max) + 1, shape).astype(dtype)
    return rng.choice(np.array([limits.min, limits.max]), shape).astype(dtype)


def assert_codes(got: Array, exact: Array, scale: float | Array, zero: int, dtype: str) -> None:
    """The integers are those of the exact values; where an edge is near, one of the two beside it."""
    codes, distance = steps(exact, scale, zero, dtype)
    difference = np.abs(got.astype(np.int64) - codes)
    assert got.dtype == dtype
    assert difference.max(initial=0) <= 1
    assert not (difference[distance > TIE]).any()


def operators(mod: Any) -> set[str]:
    """Names of the operators of `main`; of products and moves with the element type of their first operand."""
    calls = [b.value for block in mod["main"].body.blocks for b in block.bindings]
    named = [(op_name(c), c) for c in calls if op_name(c)]
    return {
        f"{name} {dtype_of(c.args[0])}" if isinstance(c.args[0], relax.Var) else name for name, c in named
    }


@EXAMPLES
@given(data=st.data())
def test_convolutions(data: st.DataObject) -> None:
    draw = data.draw
    dtype, kind, out = (
        draw(st.sampled_from(BYTES)),
        draw(st.sampled_from(BYTES)),
        draw(st.sampled_from(BYTES)),
    )
    groups, inner, outer = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    pads = [draw(st.integers(0, 2)) for _ in range(4)]
    strides = [draw(st.integers(1, 2)) for _ in range(2)]
    x = stored(draw, (1, groups * inner, draw(st.integers(3, 6)), draw(st.integers(3, 6))), dtype)
    w = stored(draw, (groups * outer, inner, height, width), kind)
    per_channel = draw(st.booleans())
    sx, sy = np.float32(draw(scales)), np.float32(draw(scales))
    sw: Any = np.array([draw(scales) for _ in range(len(w))] if per_channel else draw(scales), np.float32)
    zw: Any = draw(zeros(kind))
    zw = np.full(len(w), zw) if per_channel else zw
    zx, zy = draw(zeros(dtype)), draw(zeros(out))
    bias = np.random.default_rng(draw(st.integers(0, 99))).integers(-(10**5), 10**5, len(w)).astype("int32")
    relu = draw(st.booleans())
    net = Net()
    var = net.input(x)
    scale_b = (sx.astype(np.float64) * sw).astype(np.float32)
    along = (slice(None), *[None] * 3) if per_channel else ()

    def make(emit: Any) -> Any:
        y = emit(
            relax.op.nn.conv2d(
                emit(decoded(var, sx, zx)), emit(decoded(constant(w), sw, zw)), strides=strides, padding=pads,
                groups=groups,
            )
        )  # fmt: skip
        b = emit(decoded(constant(bias), scale_b, np.zeros(scale_b.shape, np.int32)))
        y = emit(relax.op.add(y, emit(relax.op.reshape(b, (1, len(w), 1, 1)))))
        return coded(emit(relax.op.nn.relu(y)) if relu else y, sy, zy, out)

    made = in_integers(net.build(make))
    whole = {name for name in operators(made) if name.startswith("nn.conv2d")}
    assert whole == {f"nn.conv2d {dtype}"}
    exact = _convolved(real(x, 1, zx), real(w, 1, zw[along] if per_channel else zw), pads, strides, groups)
    factor = sx.astype(np.float64) * (sw[None, :, None, None] if per_channel else sw).astype(np.float64)
    exact = (exact + bias[None, :, None, None]) * factor
    exact = np.maximum(exact, 0) if relu else exact
    assert_codes(run(made, x), exact, sy, zy, out)


def _convolved(x: Array, w: Array, pads: list[int], strides: list[int], groups: int) -> Array:
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    view = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))[
        :, :, :: strides[0], :: strides[1]
    ]
    n, c, h, v = view.shape[:4]
    parts = view.reshape(n, groups, c // groups, h, v, *w.shape[2:])
    filters = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    return np.einsum("ngchvij,gocij->ngohv", parts, filters).reshape(n, -1, h, v)


@EXAMPLES
@given(data=st.data())
def test_products(data: st.DataObject) -> None:
    draw = data.draw
    left, right, out = (draw(st.sampled_from(BYTES)) for _ in range(3))
    m, k, n = draw(st.integers(1, 4)), draw(st.integers(1, 40)), draw(st.integers(1, 4))
    known, per_column = draw(st.booleans()), draw(st.booleans())
    a, b = stored(draw, (2, m, k), left), stored(draw, (k, n) if known else (2, k, n), right)
    sa, sy = np.float32(draw(scales)), np.float32(draw(scales))
    columns = known and per_column
    sb: Any = np.array([draw(scales) for _ in range(n)] if columns else draw(scales), np.float32)
    zb: Any = np.array([draw(zeros(right)) for _ in range(n)]) if columns else draw(zeros(right))
    za, zy = draw(zeros(left)), draw(zeros(out))
    net = Net()
    x = net.input(a)
    y = constant(b) if known else net.input(b)

    def make(emit: Any) -> Any:
        product = relax.op.matmul(emit(decoded(x, sa, za)), emit(decoded(y, sb, zb, 1)))
        return coded(emit(product), sy, zy, out)

    made = in_integers(net.build(make))
    assert not any("float32" in name for name in operators(made) if name.startswith("matmul"))
    exact = (real(a, 1, za) @ real(b, 1, zb)) * (sa.astype(np.float64) * sb.astype(np.float64))
    assert_codes(run(made, *net.inputs), exact, sy, zy, out)


@EXAMPLES
@given(data=st.data())
def test_sums_and_products_of_two_tensors(data: st.DataObject) -> None:
    """However far apart the scales are: also where one of the tensors is at its zero point."""
    draw = data.draw
    kinds = [draw(st.sampled_from(BYTES)) for _ in range(3)]
    wide = st.floats(2.0**-30, 2.0**20, width=32)
    sa, sb = np.float32(draw(wide)), np.float32(draw(wide))
    za, zb, zy = (draw(zeros(kind)) for kind in kinds)
    name = draw(st.sampled_from(["add", "subtract", "multiply"]))
    a, b = (
        stored(draw, (3, 4, 5), kinds[0]),
        stored(draw, draw(st.sampled_from([(3, 4, 5), (1, 4, 1)])), kinds[1]),
    )
    a[0] = za
    function = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}[name]
    exact = function(real(a, sa, za), real(b, sb, zb))
    sy = np.float32(max(np.abs(exact).max() / 127, 2.0**-40) * draw(st.floats(0.01, 2)))
    net = Net()
    x, y = net.input(a), net.input(b)
    operator = getattr(relax.op, name)
    made = in_integers(
        net.build(
            lambda emit: coded(
                emit(operator(emit(decoded(x, sa, za)), emit(decoded(y, sb, zb)))), sy, zy, kinds[2]
            )
        )
    )
    assert not any(
        "float32" in one for one in operators(made) if one.startswith(("add", "subtract", name)) and zy == 0
    )
    codes, distance = steps(exact, sy, zy, kinds[2])
    difference = np.abs(run(made, a, b).astype(np.int64) - codes)
    assert difference.max() <= 1
    assert not difference[distance > 2.0**-6].any()


FUNCTIONS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh, "nn.relu": lambda x: np.maximum(x, 0),
    "exp": np.exp, "abs": np.abs, "nn.silu": lambda x: x / (1 + np.exp(-x)),
}  # fmt: skip


@EXAMPLES
@given(data=st.data())
def test_functions_are_one_table(data: st.DataObject) -> None:
    """Two functions after one another, with a grid between them or without; every code is tried."""
    draw = data.draw
    kind, out = draw(st.sampled_from(BYTES)), draw(st.sampled_from(BYTES))
    first, second = draw(st.sampled_from(sorted(FUNCTIONS))), draw(st.sampled_from(sorted(FUNCTIONS)))
    sx, sm, sy = (np.float32(draw(st.floats(2.0**-10, 0.25, width=32))) for _ in range(3))
    zx, zm, zy = draw(zeros(kind)), draw(zeros(out)), draw(zeros(out))
    between = draw(st.booleans())
    limits = np.iinfo(kind)
    x = np.arange(int(limits.min), int(limits.max) + 1).astype(kind)
    net = Net()
    var = net.input(x)

    def apply(name: str, value: Any) -> Any:
        return getattr(relax.op.nn if name.startswith("nn.") else relax.op, name.removeprefix("nn."))(value)

    def make(emit: Any) -> Any:
        y = emit(apply(first, emit(decoded(var, sx, zx))))
        if between:
            y = emit(decoded(emit(coded(y, sm, zm, out)), sm, zm))
        return coded(emit(apply(second, y)), sy, zy, out)

    made = in_integers(net.build(make))
    assert not {"sigmoid", "tanh", "exp"} & {name.split()[0] for name in operators(made)}
    value = FUNCTIONS[first](real(x, sx, zx))
    if between:
        value = real(steps(value, sm, zm, out)[0], sm, zm)
    got = run(made, x)
    if not between:
        assert_codes(got, FUNCTIONS[second](value), sy, zy, out)
    else:
        # a value on an edge of the grid between may fall on either side, and the second function carries that on
        beside = [steps(FUNCTIONS[second](value + d * sm), sy, zy, out)[0] for d in (-1, 0, 1)]
        assert (np.min(beside, 0) - 1 <= got).all()
        assert (got <= np.max(beside, 0) + 1).all()


@EXAMPLES
@given(data=st.data())
def test_a_line_within_limits_has_the_codes_of_float32_arithmetic(data: st.DataObject) -> None:
    """A hard-sigmoid: a value in the middle between two codes is decided as float32 operations decide it.

    Where rounding alone puts it on one side of the middle, either code is right: a line is rounded once.
    """
    draw = data.draw
    kind, out = draw(st.sampled_from(BYTES)), draw(st.sampled_from(BYTES))
    sx = np.float32(draw(st.floats(2.0**-8, 0.25, width=32)))
    sy = np.float32(draw(st.sampled_from([1 / 255, 1 / 256, 1 / 127]) | st.floats(2.0**-9, 0.125, width=32)))
    zx, zy = draw(zeros(kind)), draw(zeros(out))
    alpha, beta = np.float32(draw(st.sampled_from([1 / 6, 0.2]))), np.float32(0.5)
    limits = np.iinfo(kind)
    x = np.arange(int(limits.min), int(limits.max) + 1).astype(kind)
    net = Net()
    var = net.input(x)

    def make(emit: Any) -> Any:
        y = emit(relax.op.multiply(emit(decoded(var, sx, zx)), constant(alpha)))
        y = emit(relax.op.add(y, constant(beta)))
        return coded(emit(relax.op.clip(y, 0.0, 1.0)), sy, zy, out)

    line = (x.astype(np.int64) - zx).astype("float32") * sx * alpha + beta
    within = np.clip(line, np.float32(0), np.float32(1))
    assert within.dtype == np.float32
    info = np.iinfo(out)
    steps = within / sy
    found, wanted = run(in_integers(net.build(make)), x), np.clip(np.rint(steps) + zy, info.min, info.max)
    exact = (x.astype(np.float64) - zx) * np.float64(sx) * np.float64(alpha) + np.float64(beta)
    from_middle = np.abs(np.clip(exact, 0, 1) / np.float64(sy) % 1 - 0.5)
    rounding = 4 * np.finfo("float32").eps * np.maximum(1, np.abs(exact - beta)) / sy
    decided = (from_middle == 0) | (from_middle > rounding)
    assert (found == wanted)[decided].all()
    assert (np.abs(found.astype(int) - wanted) <= 1).all()


def test_values_are_moved_as_integers() -> None:
    x = np.arange(-128, 112).reshape(1, 2, 10, 12).astype("int8")
    net = Net()
    var = net.input(x)

    def make(emit: Any) -> Any:
        y = emit(decoded(var, 0.5, 3))
        y = emit(relax.op.nn.max_pool2d(y, pool_size=[2, 2], strides=[2, 2]))
        y = emit(relax.op.permute_dims(emit(relax.op.reshape(y, (2, 5, 6))), [1, 0, 2]))
        return coded(emit(relax.op.concat([y, y], 0)), 0.5, 3, "int8")

    made = in_integers(net.build(make))
    assert operators(made) == {"nn.max_pool2d int8", "reshape int8", "permute_dims int8", "concat"}
    pooled = x.reshape(1, 2, 5, 2, 6, 2).max((3, 5)).reshape(2, 5, 6).transpose(1, 0, 2)
    assert np.array_equal(run(made, x), np.concatenate([pooled, pooled]))


@EXAMPLES
@given(data=st.data())
def test_parts_on_different_grids_are_joined_on_one(data: st.DataObject) -> None:
    draw = data.draw
    kinds = [draw(st.sampled_from(BYTES)) for _ in range(3)]
    grids = [(np.float32(draw(scales)), draw(zeros(kind))) for kind in kinds]
    a, b = stored(draw, (2, 3), kinds[0]), stored(draw, (2, 4), kinds[1])
    net = Net()
    x, y = net.input(a), net.input(b)

    def make(emit: Any) -> Any:
        parts = [emit(decoded(x, *grids[0])), emit(decoded(y, *grids[1]))]
        return coded(emit(relax.op.concat(parts, 1)), *grids[2], kinds[2])

    made = in_integers(net.build(make))
    exact = np.concatenate([real(a, *grids[0]), real(b, *grids[1])], axis=1)
    assert_codes(run(made, a, b), exact, *grids[2], kinds[2])


@EXAMPLES
@given(data=st.data())
def test_averages(data: st.DataObject) -> None:
    draw = data.draw
    kind, out = draw(st.sampled_from(BYTES)), draw(st.sampled_from(BYTES))
    x = stored(draw, (2, 3, draw(st.integers(1, 9)), draw(st.integers(1, 9))), kind)
    sx, sy = np.float32(draw(scales)), np.float32(draw(scales))
    zx, zy = draw(zeros(kind)), draw(zeros(out))
    net = Net()
    var = net.input(x)
    name = draw(st.sampled_from(["mean", "sum", "window"]))

    def averaged(of: Any) -> Any:
        if name == "window":
            return relax.op.nn.avg_pool2d(of, x.shape[2:])
        return (relax.op.mean if name == "mean" else relax.op.sum)(of, [2, 3], keepdims=True)

    made = in_integers(net.build(lambda emit: coded(emit(averaged(emit(decoded(var, sx, zx)))), sy, zy, out)))
    assert "sum int32" in operators(made) or x.shape[2:] == (1, 1)
    exact = real(x, sx, zx)
    exact = exact.sum((2, 3), keepdims=True) if name == "sum" else exact.mean((2, 3), keepdims=True)
    assert_codes(run(made, x), exact, sy, zy, out)


@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_is_a_quotient_of_integers(axis: int) -> None:
    x = np.random.default_rng(3).integers(-128, 128, (40, 50)).astype("int8")
    net = Net()
    var = net.input(x)
    made = in_integers(
        net.build(
            lambda emit: coded(
                emit(relax.op.nn.softmax(emit(decoded(var, 0.11, 5)), axis)), 1 / 256, -128, "int8"
            )
        )
    )
    assert not {"exp", "nn.softmax"} & {name.split()[0] for name in operators(made)}
    e = np.exp(real(x, 0.11, 5))
    assert_codes(run(made, x), e / e.sum(axis, keepdims=True), 1 / 256, -128, "int8")


@pytest.mark.parametrize("mode", ["half_pixel", "align_corners", "asymmetric"])
def test_interpolation_adds_integers(mode: str) -> None:
    x = np.random.default_rng(7).integers(0, 256, (1, 2, 5, 4)).astype("uint8")
    net = Net()
    var = net.input(x)

    def make(emit: Any) -> Any:
        y = relax.op.image.resize2d(
            emit(decoded(var, 0.1, 9)),
            (12, 7),
            layout="NCHW",
            method="linear",
            coordinate_transformation_mode=mode,
        )
        return coded(emit(y), 0.1, 9, "uint8")

    made = in_integers(net.build(make))
    assert "image.resize2d float32" not in operators(made)
    exact = real(x, 0.1, 9)
    for axis, out in ((2, 12), (3, 7)):
        size, i = x.shape[axis], np.arange(out)
        at = {
            "half_pixel": (i + 0.5) * size / out - 0.5,
            "align_corners": i * (size - 1) / (out - 1),
            "asymmetric": i * size / out,
        }[mode]
        weights = np.maximum(1 - np.abs(np.clip(at, 0, size - 1)[:, None] - np.arange(size)), 0)
        exact = np.moveaxis(np.tensordot(weights, exact, (1, axis)), 0, axis)
    codes, distance = steps(exact, 0.1, 9, "uint8")
    difference = np.abs(run(made, x).astype(np.int64) - codes)
    assert difference.max() <= 1
    assert not difference[distance > 0.13].any()  # what weights of 11 bits are off by


@pytest.mark.parametrize("name", ["multiply", "divide"])
def test_a_factor_changes_the_grid_alone(name: str) -> None:
    x = np.arange(256).astype("uint8")
    net = Net()
    var = net.input(x)

    def make(emit: Any) -> Any:
        y = emit(getattr(relax.op, name)(emit(decoded(var, 0.1, 9)), constant(np.array(0.3, np.float32))))
        return coded(y, 0.2, 70, "uint8")

    factor = np.float64(np.float32(0.3))
    made = in_integers(net.build(make))
    assert "divide float32" not in operators(made)
    assert_codes(
        run(made, x), real(x, 0.1, 9) * (factor if name == "multiply" else 1 / factor), 0.2, 70, "uint8"
    )


def test_a_batch_norm_is_part_of_the_requantisation() -> None:
    rng = np.random.default_rng(9)
    x = rng.integers(0, 256, (2, 3, 4, 4)).astype("uint8")
    gamma, beta, mean, variance = (rng.uniform(0.5, 1.5, 3).astype("float32") for _ in range(4))
    net = Net()
    var = net.input(x)

    def make(emit: Any) -> Any:
        parts = [constant(a) for a in (gamma, beta, mean, variance)]
        y = emit(
            relax.op.nn.batch_norm(emit(decoded(var, 0.02, 40)), *parts, axis=1, epsilon=1e-3, training=False)
        )
        return coded(emit(relax.op.nn.relu(emit(relax.TupleGetItem(y, 0)))), 0.03, 10, "uint8")

    made = in_integers(net.build(make))
    assert not {"nn.batch_norm float32", "divide float32"} & operators(made)
    g, b, m, v = (a.astype(np.float64).reshape(1, 3, 1, 1) for a in (gamma, beta, mean, variance))
    exact = np.maximum((real(x, 0.02, 40) - m) * g / np.sqrt(v + 1e-3) + b, 0)
    codes, distance = steps(exact, 0.03, 10, "uint8")
    difference = np.abs(run(made, x).astype(np.int64) - codes)
    assert difference.max() <= 1
    assert not difference[distance > 2.0**-6].any()


@pytest.mark.filterwarnings("error")
def test_a_quotient_of_scales_beyond_float32_is_computed_on_real_numbers() -> None:
    net, weights = Net(), constant(np.ones((4, 4), "int8"))
    x = net.input(np.array([[0, 0, 0, 0], [1, 0, 0, 0]], np.int8))

    def make(emit: Any) -> Any:
        product = emit(relax.op.matmul(emit(decoded(x, 1e20, 0)), emit(decoded(weights, 1e10, 0))))
        return coded(product, 1e-20, 0, "int8")

    mod = in_integers(net.build(make))
    assert "divide float32" in operators(mod)


def test_float_functions_stay_as_they_are() -> None:
    net = Net()
    x = net.input(np.zeros((2, 3), "float32"))
    source = net.build(lambda emit: relax.op.exp(emit(relax.op.add(x, x))))
    assert in_integers(source).same_as(source)


@EXAMPLES
@given(data=st.data())
def test_tensors_on_different_grids_are_compared_as_integers(data: st.DataObject) -> None:
    """The larger, the smaller, the chosen one; the magnitude; slopes by channel below zero."""
    draw = data.draw
    kinds = [draw(st.sampled_from(BYTES)) for _ in range(3)]
    grids = [(np.float32(draw(st.floats(2.0**-6, 1, width=32))), draw(zeros(kind))) for kind in kinds]
    a, b = stored(draw, (2, 3, 4), kinds[0]), stored(draw, (2, 3, 4), kinds[1])
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    slope, mask = rng.uniform(-1, 1, 3).astype("float32"), rng.random((2, 3, 4)) < 0.5
    p, q = real(a, *grids[0]), real(b, *grids[1])
    kind = draw(st.sampled_from(["maximum", "minimum", "where", "abs", "prelu"]))
    net = Net()
    x, y = net.input(a), net.input(b)

    def make(emit: Any) -> Any:
        u, v = emit(decoded(x, *grids[0])), emit(decoded(y, *grids[1]))
        made = {
            "maximum": lambda: relax.op.maximum(u, v),
            "minimum": lambda: relax.op.minimum(u, v),
            "where": lambda: relax.op.where(constant(mask), u, v),
            "abs": lambda: relax.op.abs(emit(relax.op.mean(u, [2]))),
            "prelu": lambda: relax.op.nn.prelu(u, constant(slope), 1),
        }[kind]()
        return coded(emit(made), *grids[2], kinds[2])

    exact = {
        "maximum": np.maximum(p, q), "minimum": np.minimum(p, q), "where": np.where(mask, p, q),
        "abs": np.abs(p.mean(2)), "prelu": np.where(p > 0, p, p * slope.astype("float64")[None, :, None]),
    }[kind]  # fmt: skip
    made = in_integers(net.build(make))
    name = {"prelu": "maximum"}.get(kind, kind)
    assert operators(made) & {"where", *(f"{name} {dtype}" for dtype in ("int32", *BYTES))}
    got = run(made, a, b)
    codes, distance = steps(exact, *grids[2], kinds[2])
    difference = np.abs(got.astype(np.int64) - codes)
    assert difference.max() <= 1
    assert not difference[distance > 1 / 32].any()


@pytest.mark.parametrize("groups", [1, 2])
def test_sums_are_moved_with_what_each_phase_of_a_transposed_convolution_lacks(groups: int) -> None:
    """A shift that differs along two axes is added before they are joined; scales per channel move along."""
    rng = np.random.default_rng(groups)
    x = rng.integers(0, 256, (1, 4 * groups, 5, 3)).astype("uint8")
    w = rng.integers(-127, 128, (groups * 2 * 3, 4, 2, 2)).astype("int8")  # group, phase, output
    sx, zx, sy, zy = np.float32(0.02), 131, np.float32(0.5), 7
    sw = np.tile(rng.uniform(0.01, 0.1, 3).astype("float32"), 2 * groups)
    net = Net()
    var = net.input(x)

    def make(emit: Any) -> Any:
        grid = decoded(constant(w), sw, np.zeros(len(sw), np.int32))
        y = emit(relax.op.nn.conv2d(emit(decoded(var, sx, zx)), emit(grid), groups=groups))
        y = emit(relax.op.reshape(y, (1, groups, 2, 3, 4, 2)))
        y = emit(relax.op.permute_dims(y, [0, 1, 3, 4, 2, 5]))
        y = emit(relax.op.reshape(y, (1, groups * 3, 8, 2)))
        return coded(emit(relax.op.strided_slice(y, [2], [1], [8])), sy, zy, "uint8")

    made = in_integers(net.build(make))
    assert {"nn.conv2d uint8", "permute_dims int32", "strided_slice int32"} <= operators(made)
    exact = _convolved(real(x, sx, zx), real(w, sw[:, None, None, None], 0), [0] * 4, [1, 1], groups)
    exact = (
        exact.reshape(1, groups, 2, 3, 4, 2)
        .transpose(0, 1, 3, 4, 2, 5)
        .reshape(1, groups * 3, 8, 2)[:, :, 1:]
    )
    assert_codes(run(made, x), exact, sy, zy, "uint8")


@EXAMPLES
@given(data=st.data())
def test_rows_are_normalised_by_exact_moments(data: st.DataObject) -> None:
    """Layer normalisation, and by the mean square; equal elements and the type's extremes, too."""
    draw = data.draw
    kind, out = draw(st.sampled_from([*BYTES, "uint16", "int16"])), draw(st.sampled_from(BYTES))
    count, centred = draw(st.integers(2, 40)), draw(st.booleans())
    sx, zx = np.float32(draw(st.floats(2.0**-10, 1, width=32))), draw(zeros(kind))
    sy, zy = np.float32(draw(st.floats(2.0**-6, 1, width=32))), draw(zeros(out))
    x = stored(draw, (3, count), kind)
    x[0] = x[0, 0] if draw(st.booleans()) else x[0]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    gain, shift = rng.uniform(-2, 2, (2, count)).astype("float32")
    epsilon = draw(st.sampled_from([1e-5, 1e-3, 1e-12]))
    net = Net()
    var = net.input(x)

    def make(emit: Any) -> Any:
        u = emit(decoded(var, sx, zx))
        if centred:
            y = relax.op.nn.layer_norm(u, constant(gain), constant(shift), axes=[-1], epsilon=epsilon)
        else:
            y = relax.op.nn.rms_norm(u, constant(gain), axes=[-1], epsilon=epsilon)
        return coded(emit(y), sy, zy, out)

    made = in_integers(net.build(make))
    assert not {name for name in operators(made) if "norm" in name}
    exact = real(x, sx, zx)
    away = exact - exact.mean(1, keepdims=True) if centred else exact
    exact = away / np.sqrt((away**2).mean(1, keepdims=True) + epsilon) * gain + (shift if centred else 0)
    assert_codes(run(made, x), exact, sy, zy, out)
