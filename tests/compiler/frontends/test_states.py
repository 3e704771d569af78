"""Which inputs are states: found by name and shape, declared, or left to the caller; and windows of growing ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import edgec.runtime as rt
from edgec.compiler.errors import InputShapeError
from edgec.compiler.frontends.load import load_source
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.runtime.card import StatePair
from edgec.targets import detect
from tests.compiler.onnx_models import save

Shape = list[int | str]
F32 = np.float32


def model(pairs: dict[str, str], shape: Shape | None = None, dtype: int = TensorProto.FLOAT) -> ModelProto:
    """`y = relu(x)`, and for each pair an output that is its input plus one."""
    one = numpy_helper.from_array(np.ones((), helper.tensor_dtype_to_np_dtype(dtype)), "one")
    shape = [1, 4] if shape is None else shape
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu")]
    nodes += [
        helper.make_node("Add", [a, "one"], [b], name=f"add{n}") for n, (a, b) in enumerate(pairs.items())
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])]
    inputs += [helper.make_tensor_value_info(name, dtype, shape) for name in pairs]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    outputs += [helper.make_tensor_value_info(name, dtype, None) for name in pairs.values()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [one])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def found(made: ModelProto, folder: Path, **options: object) -> dict[str, str]:
    source = load_source(save(made, folder), CompileOptions(**options))  # type: ignore[arg-type]
    return {state.input: state.output for state in source.states}


@pytest.mark.parametrize(
    "pairs",
    [
        {"state": "stateN"},
        {"h": "hn", "c": "cn"},
        {"h0": "hn", "c0": "cn"},
        {"h_0": "h_n", "c_0": "c_n"},
        {"hx": "hy", "cx": "cy"},
        {"h_in": "h_out"},
        {"conv_cache": "conv_cache_out", "tra_cache": "tra_cache_out"},
        {"states": "new_states"},
        {"decoder.hidden.0": "decoder.hidden.0.next", "decoder.hidden.1": "decoder.hidden.1.next"},
        {"state_0": "state_0_out", "state_1": "state_1_out"},
        {"cache_last_channel": "cache_last_channel_next"},
        {"prev_state": "next_state"},
        {"past_key_values.0.key": "present.0.key", "past_key_values.0.value": "present.0.value"},
        {"past_key_values.3.decoder.key": "present.3.decoder.key"},
        {"inputStates": "outputStates"},
        {"rnn_state_in": "rnn_state_out"},
        {"last_state": "state"},
    ],
    ids=lambda pairs: ",".join(pairs),
)
def test_pairs_that_are_one_name_but_for_a_direction_are_states(
    pairs: dict[str, str], tmp_path: Path
) -> None:
    assert found(model(pairs), tmp_path) == pairs
    assert found(model(pairs), tmp_path, states=()) == {}


@pytest.mark.parametrize(
    "pairs",
    [
        {"image": "image_out"},  # a denoiser: no name of a state
        {"input": "output"},
        {"features": "new_features"},
        {"h": "c"},
        {"state_a": "state_b_out"},
        {"hidden": "cell_out"},
        {"mask": "maskN"},
    ],
    ids=lambda pairs: ",".join(pairs),
)
def test_names_that_may_mean_something_else_are_left_to_the_caller(
    pairs: dict[str, str], tmp_path: Path
) -> None:
    assert found(model(pairs), tmp_path) == {}


def test_scalars_and_flags_are_no_states_by_name(tmp_path: Path) -> None:
    assert found(model({"state": "stateN"}, []), tmp_path) == {}


def test_a_model_that_would_have_nothing_left_is_a_cell_and_no_stream(tmp_path: Path) -> None:
    made = model({"h": "hn"})
    del made.graph.input[0], made.graph.output[0], made.graph.node[0]
    assert found(made, tmp_path) == {}


def test_what_looks_like_a_state_and_is_none_is_told(tmp_path: Path) -> None:
    source = load_source(save(model({"state": "score"}), tmp_path), CompileOptions())
    assert not source.states
    (note,) = source.notes
    assert note.startswith("the input 'state' looks like a state, but no output of its shape belongs to it")


def test_declared_pairs_take_any_name_and_begin_as_they_say(tmp_path: Path) -> None:
    path = save(model({"a": "b", "state": "stateN"}), tmp_path)
    source = load_source(path, CompileOptions(states=(StatePair(input="a", output="b", initial=2.0),)))
    (state,) = source.states
    assert state.initial is not None
    assert state.initial.tolist() == [[2, 2, 2, 2]]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("a", "y"), r"the state 'a' is float32\[1, 4\], but the output 'y'.*is float32\[1, 3\]"),
        (("z", "b"), "declared with the input 'z', which the model lacks; it has x, a"),
        (("a", "z"), "declared with the output 'z', which the model lacks; it has y, b"),
    ],
)
def test_declared_pairs_that_do_not_fit_are_refused(
    pair: tuple[str, str], message: str, tmp_path: Path
) -> None:
    states = (StatePair(input=pair[0], output=pair[1]),)
    with pytest.raises(InputShapeError, match=message):
        load_source(save(model({"a": "b"}), tmp_path), CompileOptions(states=states))


def test_an_output_of_two_pairs_is_refused(tmp_path: Path) -> None:
    states = tuple(StatePair(input=name, output="b") for name in ("a", "c"))
    with pytest.raises(InputShapeError, match="the output 'b' is declared in two pairs"):
        load_source(save(model({"a": "b", "c": "d"}), tmp_path), CompileOptions(states=states))


def test_a_card_declares_states_or_their_absence(tmp_path: Path) -> None:
    path = tmp_path / "model.toml"
    path.write_text('states = [{ input = "a", output = "b", initial = 1.5 }]\n[input]\nkind = "tensor"\n')
    assert rt.load_card(path).states == (StatePair(input="a", output="b", initial=1.5),)
    path.write_text('states = []\n[input]\nkind = "tensor"\n')
    assert rt.load_card(path).states == ()
    path.write_text('states = [{ input = "a" }]\n[input]\nkind = "tensor"\n')
    with pytest.raises(rt.CardError, match=r"model.toml:1: states.0.output: required, and missing"):
        rt.load_card(path)


def decoder(past: Shape, present: Shape | None) -> ModelProto:
    """One head of attention over what was and the new token: `y = softmax(q k' + mask) v`."""
    w = {f"w{n}": np.random.default_rng(n).standard_normal((4, 4)).astype(F32) for n in b"012"}
    names = list(w)
    nodes = [helper.make_node("MatMul", ["x", name], [made]) for name, made in zip(names, "qkv", strict=True)]
    for kind in "kv":
        nodes.append(
            helper.make_node("Concat", [f"past_key_values.0.{kind}", kind], [f"present.0.{kind}"], axis=1)
        )
    nodes += [
        helper.make_node("Transpose", ["present.0.k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["dots"]),
        helper.make_node("Add", ["dots", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "present.0.v"], ["y"]),
    ]
    declare = helper.make_tensor_value_info
    inputs = [declare("x", TensorProto.FLOAT, [1, 1, 4]), declare("mask", TensorProto.FLOAT, [1, 1, "all"])]
    inputs += [declare(f"past_key_values.0.{kind}", TensorProto.FLOAT, past) for kind in "kv"]
    outputs = [declare("y", TensorProto.FLOAT, None)]
    outputs += [declare(f"present.0.{kind}", TensorProto.FLOAT, present) for kind in "kv"]
    stored = [numpy_helper.from_array(array, name) for name, array in w.items()]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("present", [[1, "past + 1", 4], pytest.param(None, marks=pytest.mark.long)])
def test_a_cache_that_grows_is_a_window_of_the_last_entries(present: Shape | None, tmp_path: Path) -> None:
    kept, made = 5, decoder([1, "past", 4], present)
    w = [numpy_helper.to_array(tensor) for tensor in made.graph.initializer]
    shapes = {"mask": (1, 1, kept + 1)} | {f"past_key_values.0.{kind}": (1, kept, 4) for kind in "kv"}
    pairs = tuple(StatePair(input=f"past_key_values.0.{kind}", output=f"present.0.{kind}") for kind in "kv")
    options = CompileOptions(tune="none", threads=1, input_shapes=shapes, states=pairs)
    path = save(made, tmp_path)
    notes = load_source(path, options).notes
    assert "float32[1, 5, 4], the last 5 entries of axis 1" in notes[0]
    result = compile_model(path, detect(), options, output=tmp_path / "a.edge")
    assert result.evidence["steps"] == 8
    rng, keys, values = np.random.default_rng(0), np.zeros((0, 4), F32), np.zeros((0, 4), F32)
    with rt.load(result.artifact, threads=1) as loaded:
        session = loaded.session()
        assert [spec.name for spec in session.inputs] == ["x", "mask"]
        for step in range(9):
            x, mask = rng.standard_normal((1, 1, 4)).astype(F32), np.full((1, 1, kept + 1), -1e9, F32)
            mask[..., kept - min(step, kept) :] = 0
            y = session.run({"x": x, "mask": mask})["y"]
            q, k, v = (x[0] @ one for one in w)
            keys, values = np.concatenate([keys, k])[-kept - 1 :], np.concatenate([values, v])[-kept - 1 :]
            weights = np.exp(q @ keys.T - (q @ keys.T).max())
            np.testing.assert_allclose(y[0], weights @ values / weights.sum(), rtol=1e-4, atol=1e-5)


def test_a_cache_that_grows_is_left_as_the_model_says_unless_it_is_declared(tmp_path: Path) -> None:
    shapes = {"mask": (1, 1, 6)} | {f"past_key_values.0.{kind}": (1, 5, 4) for kind in "kv"}
    source = load_source(
        save(decoder([1, "past", 4], [1, "past + 1", 4]), tmp_path), CompileOptions(input_shapes=shapes)
    )
    assert not source.states
    assert {port.name: port.shape for port in source.outputs}["present.0.k"] == (1, 6, 4)
    assert "looks like a cache that grows" in source.notes[0]
    assert "with the output 'present.0.k'" in source.notes[0]


@pytest.mark.parametrize("batch", [1, "n"])
def test_a_state_behind_a_loop_has_the_shape_that_the_model_declares(
    batch: int | str, tmp_path: Path
) -> None:
    """No shape can be inferred there: what a loop carries may change its shape from one round to the next."""
    info, node = helper.make_tensor_value_info, helper.make_node
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["again"]),
            node("Gather", ["x", "i"], ["row"], axis=1),
            node("Add", ["s", "row"], ["sum"]),
        ],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("go", TensorProto.BOOL, []),
            info("s", TensorProto.FLOAT, None),
        ],
        [info("again", TensorProto.BOOL, []), info("sum", TensorProto.FLOAT, None)],
    )
    nodes = [
        node("Loop", ["count", "", "state"], ["stateN"], body=body),
        node("ReduceSum", ["stateN"], ["y"], keepdims=0),
    ]
    inputs = [info("x", TensorProto.FLOAT, [batch, 3, 4]), info("state", TensorProto.FLOAT, [batch, 4])]
    inputs.append(info("count", TensorProto.INT64, []))
    outputs = [info("y", TensorProto.FLOAT, []), info("stateN", TensorProto.FLOAT, [batch, 4])]
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opsets, ir_version=9
    )
    (state,) = load_source(save(model, tmp_path), CompileOptions()).states
    assert (state.input, state.output) == ("state", "stateN")
