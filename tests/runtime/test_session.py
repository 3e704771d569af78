"""Sessions: state from one run to the next, on the device, of any number of streams."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import edgec.runtime as rt
from edgec.runtime.artifact.config import StateSpec
from edgec.runtime.execution.compiled_functions import CompiledFunction
from tests.runtime.conftest import Built, compiled, spec
from tests.runtime.side_by_side import side_by_side

WIDTH = 48
LARGE = 8192


def _states(*names: tuple[str, str], width: int, **more: Any) -> tuple[StateSpec, ...]:
    return tuple(StateSpec(input=a, output=b, shape=(1, width), dtype="float32", **more) for a, b in names)


def _recurrent(width: int) -> Built:
    """Two states: `h`, which sums, and `before`, which is the last run's input itself; `seen` is `h` as it was."""
    pytest.importorskip("tvm", reason="the compiler is missing: pip install 'edgec[compiler]'")
    from tvm import relax

    def emit(builder: Any, inputs: Any) -> Any:
        h, x, before = inputs
        total = builder.emit(relax.op.add(relax.op.multiply(h, relax.const(np.float32(0.5))), x))
        y = builder.emit(relax.op.subtract(total, before))
        return relax.Tuple([y, total, x, h])

    shape = (1, width)
    made = compiled(
        emit,
        [spec("h", shape), spec("x", shape), spec("before", shape)],  # an input between states
        [spec("y", shape), spec("hn", shape), spec("before_n", shape), spec("seen", shape)],
    )
    states = _states(("h", "hn"), width=width, initial="initial:h") + _states(
        ("before", "before_n"), width=width
    )
    begin = np.linspace(-1, 1, width, dtype=np.float32)[None]
    config = msgspec.structs.replace(made.config, states=states, name="counter")
    return Built(config, made.code, made.weights | {"initial:h": begin}, made.calls)


@pytest.fixture(scope="session")
def small() -> Built:
    return _recurrent(WIDTH)


@pytest.fixture(scope="session")
def large() -> Built:
    """With inputs so large that they are read where the caller has them."""
    return _recurrent(LARGE)


@pytest.fixture(params=["small", "small straight", "large"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[rt.Model]:
    size, *straight = request.param.split()
    built: Built = request.getfixturevalue(size)
    path = built.write(tmp_path / "counter.edge", straight=bool(straight))
    with rt.load(path, threads=1) as loaded:
        engine = loaded._first.engine
        assert isinstance(engine, CompiledFunction)
        assert bool(engine.straight) == bool(straight)
        yield loaded


class Expected:
    """What a session of the model computes, in plain numpy."""

    def __init__(self, width: int) -> None:
        self.h = np.linspace(-1, 1, width, dtype=np.float32)[None]
        self.before = np.zeros((1, width), np.float32)

    def run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        seen, total = self.h, self.h * np.float32(0.5) + x
        y, self.h, self.before = total - self.before, total, x.copy()
        return {"y": y, "seen": seen}

    def copy(self) -> Expected:
        twin = Expected(self.h.shape[1])
        twin.h, twin.before = self.h, self.before
        return twin


def _check(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


def _input(width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, width)).astype(np.float32)


def test_a_session_carries_its_state_and_run_does_not(model: rt.Model) -> None:
    width = model.inputs[0].shape[1]
    session, expected = model.session(), Expected(width)
    for seed in range(4):
        x = _input(width, seed)
        _check(session.run({"x": x}), expected.run(x))
    assert session.steps == 4
    np.testing.assert_allclose(session.states()["h"], expected.h, rtol=1e-5, atol=1e-5)
    x = _input(width, 0)
    alone = model.run({"x": x})  # states that are not given begin anew
    _check({name: alone[name] for name in ("y", "seen")}, Expected(width).run(x))
    assert set(alone) == {"y", "hn", "before_n", "seen"}
    again = model.run({"x": x, "h": alone["hn"], "before": alone["before_n"]})
    both = Expected(width)
    both.run(x)
    np.testing.assert_allclose(again["y"], both.run(x)["y"], rtol=1e-5, atol=1e-5)


def test_sessions_of_one_model_do_not_touch_each_other(model: rt.Model) -> None:
    width = model.inputs[0].shape[1]
    pairs = [(model.session(), Expected(width)) for _ in range(3)]
    for seed in range(12):
        session, expected = pairs[seed % 3]
        x = _input(width, seed)
        _check(session.run({"x": x}), expected.run(x))


def test_what_the_caller_changes_afterwards_does_not_change_the_state(model: rt.Model) -> None:
    width = model.inputs[0].shape[1]
    session, expected = model.session(), Expected(width)
    for seed in range(3):
        x = _input(width, seed)
        outputs = session.run({"x": x})
        _check(outputs, expected.run(x))
        x[...] = 99
        for array in outputs.values():
            array[...] = -99
    other = model.session()  # the initial state is shared: it has to be intact
    _check(other.run({"x": _input(width, 9)}), Expected(width).run(_input(width, 9)))


def test_the_state_stays_where_the_function_wrote_it(large: Built, tmp_path: Path) -> None:
    with rt.load(large.write(tmp_path / "counter.edge"), threads=1) as model:
        session, x = model.session(), _input(LARGE, 1)
        addresses = []
        for _ in range(12):
            session.run({"x": x})
            assert session._states is not None
            addresses.append(session._states[0].data_ptr())
        assert set(addresses[6:]) <= set(addresses[:6]), "buffers take turns: nothing is allocated"
        assert all(a != b for a, b in itertools.pairwise(addresses)), (
            "nothing is copied into a buffer of its own"
        )


def test_reset_returns_to_the_stored_beginning(model: rt.Model) -> None:
    width = model.inputs[0].shape[1]
    session, x = model.session(), _input(width, 3)
    first = session.run({"x": x})
    session.run({"x": x})
    session.reset()
    _check(session.run({"x": x}), first)


def test_a_snapshot_continues_in_another_session_and_another_process_of_the_model(
    small: Built, tmp_path: Path
) -> None:
    path = small.write(tmp_path / "counter.edge")
    x = _input(WIDTH, 5)
    with rt.load(path, threads=1) as model:
        session = model.session()
        session.run({"x": x})
        kept = session.snapshot()
        expected = session.run({"x": x})
    with rt.load(path, threads=1) as model:
        session = model.session()
        session.restore(kept)
        _check(session.run({"x": x}), expected)
        session.restore(kept)
        assert session.snapshot() == kept
        session.restore(bytearray(kept))


def test_snapshots_that_do_not_fit_are_refused_and_leave_the_state(small: Built, tmp_path: Path) -> None:
    with rt.load(small.write(tmp_path / "counter.edge"), threads=1) as model:
        session, expected = model.session(), Expected(WIDTH)
        kept, x = session.snapshot(), _input(WIDTH, 0)
        _check(session.run({"x": x}), expected.run(x))
        for length in (0, 7, 8, 39, 40, 60, len(kept) - 1):
            with pytest.raises(rt.InputError, match=r"cut short or damaged|no snapshot"):
                session.restore(kept[:length])
        for place in (9, 45, 60, len(kept) - 1):
            damaged = bytearray(kept)
            damaged[place] ^= 1
            with pytest.raises(rt.InputError, match="cut short or damaged"):
                session.restore(bytes(damaged))
        with pytest.raises(rt.InputError, match="a snapshot is bytes, not str"):
            session.restore("text")  # type: ignore[arg-type]
        for change, message in (
            ({"name": "other"}, "of model 'other', and this session of model 'counter'"),
            ({"version": "2"}, "of version '2', and this session of version '1'"),
            ({"provenance": rt.Provenance(source_sha256="ff")}, "of another model file than counter 1"),
            ({"states": small.config.states[::-1]}, "other states than counter: 'before' float32"),
        ):
            path = small.write(tmp_path / "other.edge", **change)
            with rt.load(path, threads=1) as other, pytest.raises(rt.InputError, match=message):
                session.restore(other.session().snapshot())
        _check(session.run({"x": x}), expected.run(x))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'x' of counter is missing"),
        ({"x": np.zeros((1, 3), np.float32)}, r"input 'x' float32\[1, 48\] was given as float32\[1, 3\]"),
        ({"x": np.zeros((1, WIDTH)), "h": 0}, "'h' is a state of counter, which the session keeps"),
        ({"y": 0}, "counter has no input 'y'; it takes 'x' float32"),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    small: Built, tmp_path: Path, inputs: dict[str, Any], message: str
) -> None:
    with (
        rt.load(small.write(tmp_path / "counter.edge"), threads=1) as model,
        pytest.raises(rt.InputError, match=message),
    ):
        model.session().run(inputs)


def test_a_closed_model_ends_its_sessions(small: Built, tmp_path: Path) -> None:
    model = rt.load(small.write(tmp_path / "counter.edge"), threads=1)
    session = model.session()
    outputs = session.run({"x": _input(WIDTH, 1)})
    model.close()
    for call in (lambda: session.run({"x": _input(WIDTH, 1)}), session.states, session.snapshot):
        with pytest.raises(rt.InputError, match="counter has been closed"):
            call()
    assert np.isfinite(outputs["y"]).all()


def test_a_model_without_states_has_sessions_too(tiny: Path) -> None:
    with rt.load(tiny, threads=1) as model:
        inputs = {spec.name: np.ones(spec.shape, spec.dtype) for spec in model.inputs}
        session = model.session()
        for name, array in model.run(inputs).items():
            np.testing.assert_array_equal(session.run(inputs)[name], array)
        session.restore(session.snapshot())
        assert session.states() == {}


def test_states_that_do_not_fit_the_artifact_are_refused_before_it_runs(small: Built, tmp_path: Path) -> None:
    for change, message in (
        ({"input": "z"}, "does not fit its inputs and outputs"),
        ({"output": "y2"}, "does not fit its inputs and outputs"),
        ({"shape": (1, 3)}, "does not fit its inputs and outputs"),
        ({"initial": "nothing"}, "weights lack 'nothing'"),
    ):
        states = (msgspec.structs.replace(small.config.states[0], **change),)
        with pytest.raises(rt.ArtifactError, match=message):
            rt.load(small.write(tmp_path / "counter.edge", states=states), threads=1)


def test_an_artifact_without_states_in_its_config_loads_as_before(small: Built, tmp_path: Path) -> None:
    """One of an older edgec: what would be states are inputs and outputs."""
    path = small.write(tmp_path / "counter.edge", states=())
    with rt.load(path, threads=1) as model, pytest.raises(rt.InputError, match="input 'h' of counter is mis"):
        model.session().run({"x": _input(WIDTH, 1)})


def test_many_threads_with_a_session_each(small: Built, tmp_path: Path) -> None:
    failures: list[Exception] = []
    with rt.load(small.write(tmp_path / "counter.edge"), threads=1) as model:

        def work(number: int) -> None:
            try:
                session, expected = model.session(), Expected(WIDTH)
                for seed in range(40):
                    x = _input(WIDTH, 100 * number + seed)
                    _check(session.run({"x": x}), expected.run(x))
            except (AssertionError, rt.InputError, RuntimeError) as error:  # reported by the test
                failures.append(error)

        side_by_side(work)
    assert not failures, failures[0]


class Interleaved(RuleBasedStateMachine):
    """Sessions of one model, run, reset, kept and restored in any order, beside a plain model of each."""

    loaded: rt.Model
    sessions = Bundle("sessions")
    snapshots = Bundle("snapshots")

    @rule(target=sessions)
    def open(self) -> tuple[rt.Session, list[Expected]]:
        return self.loaded.session(), [Expected(WIDTH)]

    @rule(pair=sessions, seed=st.integers(0, 1000))
    def run(self, pair: tuple[rt.Session, list[Expected]], seed: int) -> None:
        session, (expected,) = pair
        x = _input(WIDTH, seed)
        _check(session.run({"x": x}), expected.run(x))

    @rule(pair=sessions)
    def reset(self, pair: tuple[rt.Session, list[Expected]]) -> None:
        pair[0].reset()
        pair[1][0] = Expected(WIDTH)

    @rule(target=snapshots, pair=sessions)
    def keep(self, pair: tuple[rt.Session, list[Expected]]) -> tuple[bytes, Expected]:
        return pair[0].snapshot(), pair[1][0].copy()

    @rule(pair=sessions, kept=snapshots)
    def restore(self, pair: tuple[rt.Session, list[Expected]], kept: tuple[bytes, Expected]) -> None:
        pair[0].restore(kept[0])
        pair[1][0] = kept[1].copy()

    @rule(pair=sessions, kept=snapshots, place=st.integers(0, 10_000))
    def restore_damaged(
        self, pair: tuple[rt.Session, list[Expected]], kept: tuple[bytes, Expected], place: int
    ) -> None:
        damaged = bytearray(kept[0])
        damaged[place % len(damaged)] ^= 0x40
        with pytest.raises(rt.InputError):
            pair[0].restore(bytes(damaged))

    @rule(pair=consumes(sessions))
    def abandon(self, pair: tuple[rt.Session, list[Expected]]) -> None:
        del pair

    @rule(seed=st.integers(0, 1000))
    def run_alone(self, seed: int) -> None:
        x = _input(WIDTH, seed)
        alone = self.loaded.run({"x": x})
        _check({name: alone[name] for name in ("y", "seen")}, Expected(WIDTH).run(x))

    @invariant()
    def is_open(self) -> None:
        assert self.loaded.inputs


def test_sessions_interleaved_in_any_order_equal_a_plain_model(small: Built, tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    with rt.load(small.write(tmp_path / "counter.edge"), threads=1) as loaded:
        machine = type("Machine", (Interleaved,), {"loaded": loaded})
        run_state_machine_as_test(machine)  # type: ignore[no-untyped-call]


def test_a_session_goes_on_where_another_kind_of_run_left(small: Built, tmp_path: Path) -> None:
    """States in a block of memory serve a virtual machine, and its tensors serve runs from a table."""
    paths = [small.write(tmp_path / f"{n}.edge", straight=bool(n)) for n in range(2)]
    with rt.load(paths[0], threads=1) as plain, rt.load(paths[1], threads=1) as straight:
        for first, second in ((plain, straight), (straight, plain)):
            expected, session = Expected(WIDTH), first.session()
            for step in range(6):
                x = _input(WIDTH, step)
                _check(session.run({"x": x}), expected.run(x))
                if step == 2:
                    session._present = session._variants[0]
                    session._variants = (second._first,)
                    session._present = second._first
