"""NaN, infinities and divisors that would trap, drawn at random, through the whole compile against numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import NodeProto, helper
from tvm import te, tirx

import edgec.runtime as rt
from edgec.compiler.backends.special_values import exact_special_values
from edgec.compiler.options import CompileOptions
from edgec.targets import detect, load_target
from tests.compiler.backends.cpu.kernels import run
from tests.compiler.frontends.relax.converters.evaluate import model_of
from tests.compiler.onnx_models import build, save

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], Arrays]

SHAPES = {"scalar": (), "odd": (7,), "vectors": (2, 64)}
WITHOUT_WINOGRAD = 9e-6  # an error budget
ALL = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextmanager
def compiled(
    nodes: list[NodeProto],
    inputs: Arrays,
    outputs: Mapping[str, str],
    folder: Path,
    error_budget: float = 1e-3,
) -> Iterator[Run]:
    """A function that runs a model natively."""
    model = model_of(nodes, inputs, outputs)
    options = CompileOptions(tune="none", threads=1, fallback=False, error_budget=error_budget)
    _, artifact = build(save(model, folder), folder, options)
    with rt.load(artifact, threads=1) as loaded:
        yield lambda given: loaded.run(dict(given))


def floats(dtype: str) -> st.SearchStrategy[float]:
    """Any number, special ones often; zero for subnormal ones, which kernels may flush."""
    width, least = np.dtype(dtype).itemsize * 8, float(np.finfo(dtype).tiny)
    special = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 6.0, -3.0])
    # Mapped, not filtered, as hypothesis filters those of 16 bits: of arrays of many numbers a filter would leave few.
    halves = st.integers(0, 2**16 - 1).map(lambda bits: float(np.uint16(bits).view(np.float16)))
    numbers = halves if width == 16 else st.floats(width=width)
    return special | numbers.map(lambda value: 0.0 if abs(value) < least else value)


FUNCTIONS: dict[str, tuple[list[NodeProto], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "relu": ([helper.make_node("Relu", ["x"], ["relu"])], lambda x, _: np.maximum(x, x.dtype.type(0))),
    "clip": ([helper.make_node("Clip", ["x", "low", "high"], ["clip"])], lambda x, _: np.clip(x, -1, 6)),
    "max": ([helper.make_node("Max", ["x", "y"], ["max"])], np.maximum),
    "min": ([helper.make_node("Min", ["x", "y"], ["min"])], np.minimum),
    "max3": ([helper.make_node("Max", ["x", "y", "x"], ["max3"])], np.maximum),
    "sign": ([helper.make_node("Sign", ["x"], ["sign"])], lambda x, _: np.sign(x)),
    "threshold": (
        [helper.make_node("ThresholdedRelu", ["x"], ["threshold"], alpha=-1.0)],
        lambda x, _: np.where(x > -1, x, x.dtype.type(0)),
    ),
    "leaky": (
        [helper.make_node("LeakyRelu", ["x"], ["leaky"], alpha=0.5)],
        lambda x, _: np.where(x < 0, x * x.dtype.type(0.5), x),
    ),
    "prelu": (
        [helper.make_node("PRelu", ["x", "half"], ["prelu"])],
        lambda x, _: np.where(x < 0, x * x.dtype.type(0.5), x),
    ),
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_choices_among_numbers(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    constants = [
        helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, [], [value]))
        for name, value in {"low": -1.0, "high": 6.0, "half": 0.5}.items()
        for kind in [helper.np_dtype_to_tensor_dtype(np.dtype(dtype))]
    ]
    nodes = constants + [node for made, _ in FUNCTIONS.values() for node in made]
    x = np.ones(shape, dtype)

    with compiled(nodes, {"x": x, "y": x}, dict.fromkeys(FUNCTIONS, dtype), tmp_path) as model:

        @ALL
        @given(
            hnp.arrays(dtype, shape, elements=floats(dtype)), hnp.arrays(dtype, shape, elements=floats(dtype))
        )
        def check(x: np.ndarray, y: np.ndarray) -> None:
            got = model({"x": x, "y": y})
            for name, (_, exact) in FUNCTIONS.items():
                np.testing.assert_array_equal(got[name], exact(x, y), err_msg=name)

        check()


SMOOTH: dict[str, tuple[NodeProto, Callable[[np.ndarray], np.ndarray]]] = {
    "exp": (helper.make_node("Exp", ["x"], ["exp"]), np.exp),
    "sigmoid": (helper.make_node("Sigmoid", ["x"], ["sigmoid"]), lambda x: 1 / (1 + np.exp(-x))),
    "tanh": (helper.make_node("Tanh", ["x"], ["tanh"]), np.tanh),
    "elu": (
        helper.make_node("Elu", ["x"], ["elu"], alpha=0.5),
        lambda x: np.where(x > 0, x, 0.5 * np.expm1(np.minimum(x, 0))),
    ),
    "celu": (
        helper.make_node("Celu", ["x"], ["celu"], alpha=2.0),
        lambda x: np.maximum(x, 0) + np.minimum(0, 2 * np.expm1(x / 2)),
    ),
    "selu": (
        helper.make_node("Selu", ["x"], ["selu"], alpha=1.5, gamma=2.0),
        lambda x: np.where(x > 0, 2 * x, 3 * np.expm1(np.minimum(x, 0))),
    ),
    "hardsigmoid": (
        helper.make_node("HardSigmoid", ["x"], ["hardsigmoid"], alpha=0.25, beta=0.5),
        lambda x: np.clip(0.25 * x + 0.5, 0, 1),
    ),
    "hardswish": (
        helper.make_node("HardSwish", ["x"], ["hardswish"]),
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    ),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_activations_of_what_is_no_number_or_infinite(shape: tuple[int, ...], tmp_path: Path) -> None:
    nodes = [node for node, _ in SMOOTH.values()]
    x = np.ones(shape, "float32")
    values = st.sampled_from([np.nan, np.inf, -np.inf, 88.5, 88.72, 88.73, 89.0, -87.4, -104.0]) | st.floats(
        -1e4, 1e4, width=32
    )
    with compiled(nodes, {"x": x}, dict.fromkeys(SMOOTH, "float32"), tmp_path) as model:

        @ALL
        @given(hnp.arrays("float32", shape, elements=values))
        def check(x: np.ndarray) -> None:
            got = model({"x": x})
            with np.errstate(all="ignore"):
                for name, (_, exact) in SMOOTH.items():
                    wanted = np.asarray(exact(x.astype("float64"))).astype("float32")
                    np.testing.assert_allclose(got[name], wanted, rtol=2e-6, atol=2e-6, err_msg=name)

        check()


def test_an_epilogue_keeps_what_a_convolution_finds(tmp_path: Path) -> None:
    """NaN in one pixel reaches every output whose window holds it, and no other, through the rectifier and the pool.

    The budget leaves no room for Winograd's algorithm, whose tiles share what is no number.
    """
    x = np.ones((1, 8, 12, 12), "float32")
    x[0, 3, 5, 5] = np.nan
    weight = helper.make_tensor("w", 1, [16, 8, 3, 3], np.full(1152, 0.01, "float32"))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        helper.make_node("GlobalMaxPool", ["r"], ["g"]),
    ]
    outputs = {"r": "float32", "p": "float32", "g": "float32"}
    with compiled(nodes, {"x": x}, outputs, tmp_path, WITHOUT_WINOGRAD) as model:
        got = model({"x": x})
    near = np.zeros((12, 12), bool)
    near[4:7, 4:7] = True
    assert np.array_equal(np.isnan(got["r"][0]), np.broadcast_to(near, (16, 12, 12)))
    pooled = np.zeros((6, 6), bool)
    pooled[2:4, 2:4] = True
    assert np.array_equal(np.isnan(got["p"][0]), np.broadcast_to(pooled, (16, 6, 6)))
    assert np.isnan(got["g"]).all()


def integers(dtype: str) -> st.SearchStrategy[int]:
    """Any integer; the ends of the range, 0 and -1 often."""
    limits = np.iinfo(dtype)
    ends = [limits.min, limits.max, 0, 1] + ([-1] if limits.min else [])
    return st.sampled_from(ends) | st.integers(limits.min, limits.max)


def truncated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Quotients as C has them, 0 for a division by zero; the least integer divided by -1 wraps."""
    values = [
        0 if q == 0 else abs(p) // abs(q) * (1 if (p < 0) == (q < 0) else -1)
        for p, q in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)
    ]
    width = a.dtype.itemsize * 8
    wrapped = np.array([v % (1 << width) for v in values], f"uint{width}")
    return wrapped.astype(a.dtype).reshape(a.shape)


WIDTHS = [f"{sign}int{width}" for sign in ("", "u") for width in (8, 16, 32, 64)]


@pytest.mark.parametrize("dtype", WIDTHS)
def test_integers_divided_by_anything(dtype: str, tmp_path: Path) -> None:
    nodes, outputs = [], []
    inputs = {f"{side}_{name}": np.ones(shape, dtype) for side in "ab" for name, shape in SHAPES.items()}
    for name in SHAPES:
        pair = [f"a_{name}", f"b_{name}"]
        nodes.append(helper.make_node("Div", pair, [f"div_{name}"]))
        nodes.append(helper.make_node("Mod", pair, [f"mod_{name}"]))
        nodes.append(helper.make_node("Mod", pair, [f"fmod_{name}"], fmod=1))
        outputs += [f"{op}_{name}" for op in ("div", "mod", "fmod")]
    with compiled(nodes, inputs, dict.fromkeys(outputs, dtype), tmp_path) as model:

        @ALL
        @given(
            st.fixed_dictionaries(
                {k: hnp.arrays(dtype, v.shape, elements=integers(dtype)) for k, v in inputs.items()}
            )
        )
        def check(drawn: dict[str, np.ndarray]) -> None:
            got = model(drawn)
            with np.errstate(all="ignore"):
                for name in SHAPES:
                    a, b = drawn[f"a_{name}"], drawn[f"b_{name}"]
                    np.testing.assert_array_equal(got[f"div_{name}"], truncated(a, b), err_msg=f"Div {name}")
                    np.testing.assert_array_equal(got[f"mod_{name}"], np.mod(a, b), err_msg=f"Mod {name}")
                    np.testing.assert_array_equal(got[f"fmod_{name}"], np.fmod(a, b), err_msg=f"fmod {name}")

        check()


@pytest.mark.parametrize("divisor", [0, -1])
def test_a_constant_divisor_that_would_trap(divisor: int, tmp_path: Path) -> None:
    a = np.array([np.iinfo("int32").min, -5, 0, 7], "int32")
    constant = helper.make_tensor("b", helper.np_dtype_to_tensor_dtype(a.dtype), [], [divisor])
    nodes = [
        helper.make_node("Constant", [], ["b"], value=constant),
        helper.make_node("Mod", ["a", "b"], ["mod"]),
        helper.make_node("Mod", ["a", "b"], ["fmod"], fmod=1),
        helper.make_node("Div", ["a", "b"], ["div"]),
    ]
    with compiled(nodes, {"a": a}, dict.fromkeys(["mod", "fmod", "div"], "int32"), tmp_path) as model:
        got = model({"a": a})
    assert np.array_equal(got["div"], truncated(a, np.full_like(a, divisor)))
    assert not got["mod"].any()
    assert not got["fmod"].any()


def test_a_clamped_number_becomes_an_index_even_if_it_is_none() -> None:
    """NaN would be converted to any integer: as an index, it would read elsewhere in memory."""
    x = np.resize(np.array([np.nan, -5.0, 2.0, 99.0, np.inf, -np.inf], "float32"), 64)
    data = te.placeholder(x.shape, "float32", "data")

    def index(i: tirx.Var) -> tirx.Expr:
        limited = tirx.max(tirx.min(data[i], tirx.const(9.0, "float32")), tirx.const(0.0, "float32"))
        return tirx.Cast("int32", limited)

    out = te.compute(x.shape, index, "index")
    got = run(te.create_prim_func([data, out]), detect(), x)
    numbers = ~np.isnan(x)
    assert np.array_equal(got[numbers], np.clip(x[numbers], 0, 9).astype("int32"))
    assert set(got[~numbers].tolist()) <= {0, 9}


def _stored(value: tirx.Expr) -> tirx.Expr:
    return tirx.min(tirx.max(value, -8.0), 7.0).astype("int16").astype("float32")


def test_limits_of_codes_take_no_names() -> None:
    """Names within names cost TVM's analysis minutes where a chain of 16-bit quantisations is one kernel."""
    x = te.placeholder((16,), "float32", "x")
    codes = te.compute((16,), lambda i: _stored(_stored(_stored(x[i]))), name="codes")
    function = te.create_prim_func([x, codes])
    text = exact_special_values(function).script()
    assert "T.Let" not in text
    assert text.count("llvm.maxnum") == text.count("llvm.minnum") == 3


def test_maxima_are_an_instruction_of_64_bit_arm() -> None:
    """Its `fmax` keeps NaN of either operand: no test for it is left."""
    x, y = te.placeholder((16,), "float32", "x"), te.placeholder((16,), "float32", "y")
    larger = te.compute((16,), lambda i: tirx.max(x[i], y[i]), name="larger")
    arm = tvm.target.Target(dict(load_target("rpi5").tvm))
    function = te.create_prim_func([x, y, larger]).with_attr("target", arm)
    text = exact_special_values(function).script()
    assert text.count("llvm.maximum") == 1
    assert "isnan" not in text
