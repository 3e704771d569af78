"""Sessions of models with several sets of input shapes, and with sizes within bounds; and what proves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

import edgec.runtime as rt
from edgec.compiler import pack
from edgec.compiler.errors import InputShapeError, VerificationFailed
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.options import Bounds, CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.runtime.card import StatePair
from edgec.targets import detect
from tests.compiler.onnx_models import model_of, save

QUICK = CompileOptions(tune="none", threads=1)


def running_sum(batch: int | str = 1) -> ModelProto:
    """`y = x + state`, where `state` is the sum of all inputs so far."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["sum"], name="sum"),
        helper.make_node("Add", ["state", "sum"], ["stateN"], name="add"),
        helper.make_node("Add", ["x", "stateN"], ["y"], name="out"),
    ]
    axis = {"axis": np.array([1], np.int64)}
    return model_of(nodes, {"x": [batch, "n"], "state": [batch, 1]}, ["y", "stateN"], axis)


def check(artifact: Path, sizes: list[int]) -> None:
    rng, total = np.random.default_rng(0), np.float32(0)
    with rt.load(artifact, threads=1) as model:
        session = model.session()
        for size in sizes:
            x = rng.standard_normal((1, size)).astype(np.float32)
            total += x.sum()
            np.testing.assert_allclose(session.run({"x": x})["y"], x + total, rtol=1e-4, atol=1e-5)
        kept = session.snapshot()
        session.reset()
        session.restore(kept)
        np.testing.assert_allclose(session.states()["state"], [[total]], rtol=1e-4, atol=1e-5)


def test_a_session_goes_from_one_set_of_shapes_to_another(tmp_path: Path) -> None:
    options = CompileOptions(
        tune="none", threads=1, input_shapes={"x": (1, 3)}, buckets=({"x": (1, 5)}, {"x": (1, 20_000)})
    )
    path = save(running_sum(), tmp_path)
    result = compile_model(path, detect(), options, output=tmp_path / "sum.edge")
    assert [len(bucket.states) for bucket in result.config.buckets] == [1, 1]
    check(result.artifact, [3, 5, 20_000, 5, 3, 20_000])


def test_a_session_takes_sizes_within_bounds(tmp_path: Path) -> None:
    options = CompileOptions(tune="none", threads=1, input_shapes={"x": (1, Bounds(1, 6))})
    result = compile_model(save(running_sum(), tmp_path), detect(), options, output=tmp_path / "sum.edge")
    assert len(result.config.states) == 1
    check(result.artifact, [1, 6, 3, 3, 2])


@pytest.mark.long
def test_a_state_of_other_sizes_needs_a_session_of_its_own(tmp_path: Path) -> None:
    shapes = ({"x": (n, 3), "state": (n, 1)} for n in (1, 2))
    first, second = shapes
    options = CompileOptions(tune="none", threads=1, input_shapes=first, buckets=(second,))
    path = save(running_sum("batch"), tmp_path)
    result = compile_model(path, detect(), options, output=tmp_path / "sum.edge")
    with rt.load(result.artifact, threads=1) as model:
        session = model.session()
        session.run({"x": np.ones((1, 3), np.float32)})
        with pytest.raises(rt.InputError, match=r"have other shapes for these inputs .*reset"):
            session.run({"x": np.ones((2, 3), np.float32)})
        assert session.run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[7, 7, 7]]
        kept = session.snapshot()
        session.reset()
        assert session.run({"x": np.ones((2, 3), np.float32)})["y"].shape == (2, 3)
        session.restore(kept)  # of the other set, which the session goes back to
        assert session.states()["state"].tolist() == [[6]]


def test_a_declared_state_of_sizes_within_bounds_is_refused(tmp_path: Path) -> None:
    options = CompileOptions(
        tune="none",
        input_shapes={"x": (Bounds(1, 4), 3), "state": (Bounds(1, 4), 1)},
        states=(StatePair(input="state", output="stateN"),),
    )
    with pytest.raises(InputShapeError, match="the state 'state' has sizes that are chosen in each run"):
        compile_model(save(running_sum("b"), tmp_path), detect(), options, output=tmp_path / "sum.edge")


def test_a_wrong_state_does_not_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run is right: only runs after one another show the fault."""
    states_of = pack.states_of

    def other(source: SourceModel, bucket: int = 0) -> tuple[rt.StateSpec, ...]:
        (state,) = states_of(source, bucket)
        return (rt.StateSpec(input=state.input, output="y", shape=state.shape, dtype=state.dtype),)

    monkeypatch.setattr(pack, "states_of", other)
    options = CompileOptions(tune="none", threads=1, input_shapes={"x": (1, 1)})
    with pytest.raises(VerificationFailed, match=r"output 'stateN'|in run [2-8]"):
        compile_model(save(running_sum(), tmp_path), detect(), options, output=tmp_path / "sum.edge")
    assert not (tmp_path / "sum.edge").exists()
