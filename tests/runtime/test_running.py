"""Running: right numbers, the caller's own arrays, clear words for wrong input, many threads at once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.execution.compiled_functions import empty_aligned
from edgec.runtime.execution.shared_libraries import interface
from edgec.runtime.execution.threads import Threading

Reference = Callable[[Any], Any]


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    with rt.load(tiny, threads=1) as loaded:
        yield loaded


def rows(seed: int, count: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((count, 32)).astype("float32")


def test_it_computes_what_the_model_computes(model: rt.Model, reference: Reference) -> None:
    for seed in range(5):
        np.testing.assert_allclose(
            model.run({"x": rows(seed)})["y.0"], reference(rows(seed)), rtol=1e-5, atol=1e-6
        )


def test_inputs_that_may_not_be_written_to_are_read(
    two_outputs: Any, tmp_path: Path, model: rt.Model, reference: Reference
) -> None:
    """As from ``np.frombuffer`` or a file that is mapped for reading."""
    x = rows(3)
    np.testing.assert_array_equal(model.run({"x": frozen(x)})["y.0"], model.run({"x": x})["y.0"])
    assert model.profile({"x": frozen(x)}, 1)
    a = np.random.default_rng(4).standard_normal((1, 512, 1024)).astype("float32")
    b = np.array(0.5, "float32")
    with rt.load(two_outputs.write(tmp_path / "a.edge"), threads=1) as large:
        for given in (frozen(a), np.frombuffer(a.tobytes(), "float32").reshape(a.shape)):
            found = large.run({"a": given, "b": frozen(b)})
            np.testing.assert_array_equal(found["sum"], a + b)
            np.testing.assert_array_equal(found["same"], a)
            assert found["same"].flags.writeable


def frozen(array: Any) -> Any:
    copy = empty_aligned(array.shape, array.dtype)
    copy[...] = array
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize("shape", [(0, 3), (2, 3), ()])
def test_memory_that_is_read_only_becomes_a_tensor_and_goes_when_it_goes(shape: tuple[int, ...]) -> None:
    for dtype, bfloat16 in (("float32", False), ("uint16", True)):
        array = np.ones(shape, dtype)
        array.flags.writeable = False
        before = sys.getrefcount(array)
        tensors = [interface().tensor(array, bfloat16=bfloat16) for _ in range(100)]
        assert {tensor.nbytes for tensor in tensors} == {array.nbytes}
        assert sys.getrefcount(array) == before + 100
        del tensors
        assert sys.getrefcount(array) == before


def test_outputs_have_the_source_models_names_and_are_the_callers_own(
    model: rt.Model, reference: Reference
) -> None:
    first = model.run({"x": rows(1)})
    assert list(first) == ["y.0"]
    second = model.run({"x": rows(2)})["y.0"]
    np.testing.assert_allclose(first["y.0"], reference(rows(1)), rtol=1e-5, atol=1e-6)
    second[...] = 7
    np.testing.assert_allclose(model.run({"x": rows(2)})["y.0"], reference(rows(2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"input 'x' of tiny is missing; it takes 'x' float32\[1, 32\]"),
        ({"z": rows(0)}, "tiny has no input 'z'"),
        ({"x": rows(0), "z": rows(0)}, "tiny has no input 'z'"),
        ({"x": rows(0)[0]}, r"input 'x' float32\[1, 32\] was given as float32\[32\]"),
        ({"x": rows(0).astype("float64")}, r"was given as float64\[1, 32\]"),
        ({"x": rows(0).astype(">f4")}, r"was given as >f4\[1, 32\]"),
        ({"x": rows(0, 2)}, r"was given as float32\[2, 32\]"),
        ({"x": rows(0).tolist()}, "must be a numpy array, not list"),
        ({"x": None}, "must be a numpy array, not NoneType"),
        ([rows(0)], "inputs must be a dict of arrays"),
        (None, "inputs must be a dict of arrays"),
    ],
)
def test_wrong_inputs_are_answered_with_what_was_expected(model: rt.Model, inputs: Any, message: str) -> None:
    with pytest.raises(rt.InputError, match=message):
        model.run(inputs)


def test_inputs_may_lie_anywhere_in_memory(two_outputs: Any, tmp_path: Path) -> None:
    shape, random = (1, 512, 1024), np.random.default_rng(0)
    plain = random.standard_normal(shape).astype("float32")
    odd = np.zeros(plain.nbytes + 4, np.uint8)[4:].view("float32").reshape(shape)
    aligned, read_only, wide = (
        empty_aligned(shape, "float32"),
        plain.copy(),
        np.zeros((1, 512, 2048), "float32"),
    )
    strided, turned = wide[:, :, ::2], np.empty((1024, 512, 1), "float32").transpose(2, 1, 0)
    for view in (odd, aligned, strided, turned):
        view[...] = plain
    read_only.flags.writeable = False
    b = np.array(0.5, "float32")
    with rt.load(two_outputs.write(tmp_path / "a.edge")) as model:
        for view in (plain, odd, aligned, read_only, strided, turned):
            np.testing.assert_array_equal(model.run({"a": view, "b": b})["sum"], plain + b)


def test_an_output_that_is_an_input_handed_through_is_a_copy(two_outputs: Any, tmp_path: Path) -> None:
    a, b = empty_aligned((1, 512, 1024), "float32"), np.array(1, "float32")
    with rt.load(two_outputs.write(tmp_path / "a.edge")) as model:
        for number in range(3):
            a[...] = number
            kept = model.run({"b": b, "a": a})
            a[...] = -1
            assert (kept["same"] == number).all()
            assert (kept["sum"] == number + 1).all()


def test_many_threads_share_one_model(tiny: Path, reference: Reference) -> None:
    wrong: list[int] = []
    ready = threading.Barrier(6)

    def work(seed: int) -> None:
        ready.wait()
        for number in range(200):
            x = rows(seed * 1000 + number)
            if not np.allclose(model.run({"x": x})["y.0"], reference(x), rtol=1e-5, atol=1e-5):
                wrong.append(seed)

    with rt.load(tiny, threads=2) as model:
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []


def test_closing_under_running_threads_ends_them_with_a_clear_error(tiny: Path) -> None:
    model = rt.load(tiny, threads=1)
    started, outcome = threading.Event(), []

    def work() -> None:
        try:
            while True:
                model.run({"x": rows(0)})
                started.set()
        except rt.InputError as error:
            outcome.append(str(error))

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    started.wait()
    model.close()
    model.close()
    for worker in workers:
        worker.join()
    assert outcome == ["the model tiny has been closed"] * 3


def test_models_with_other_thread_counts_take_turns_in_one_thread(tiny: Path, reference: Reference) -> None:
    cores = sorted(os.sched_getaffinity(0))
    with rt.load(tiny, threads=1) as one, rt.load(tiny) as every, rt.load(tiny, affinity=cores[-1:]) as last:
        assert (one.threads, every.threads, last.threads) == (1, len(cores), 1)
        for model in (every, one, last, every, last, one, every):
            np.testing.assert_allclose(
                model.run({"x": rows(3)})["y.0"], reference(rows(3)), rtol=1e-5, atol=1e-6
            )
        assert sorted(os.sched_getaffinity(0)) == cores


def test_affinity_pins_and_threads_are_cut_to_the_cores() -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert Threading.of(999, None).threads == len(cores)
    assert Threading.of(None, cores[:1]) == Threading(1, (cores[0],), pinned=True)
    for threads, affinity in ((0, None), (None, []), (None, [4096])):
        with pytest.raises(rt.InputError):
            Threading.of(threads, affinity)


def test_a_profile_names_the_source_nodes_of_every_kernel(model: rt.Model) -> None:
    layers = model.profile({"x": rows(0)}, repeats=5)
    assert layers
    nodes = [int(node) for layer in layers for node in layer.nodes]
    assert sorted(set(nodes)) == list(range(8))
    assert nodes == sorted(nodes)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert all(layer.ms > 0 for layer in layers)
    with pytest.raises(rt.InputError):
        model.profile({"y": rows(0)})


def test_a_probe_is_asked_right_before_and_after_every_kernel(model: rt.Model) -> None:
    asked = iter(range(1000))
    layers = model.profile_runs({"x": rows(0)}, repeats=3, probe=lambda: float(next(asked)))
    assert [len(layer.seconds) for layer in layers] == [3] * len(layers)
    for run in range(3):
        pairs = [layer.probes[run] for layer in layers]
        assert [after for _, after in pairs[:-1]] == [before for before, _ in pairs[1:]]
        assert all(after == before + 1 for before, after in pairs)
    assert layers[0].probes[0][0] == len(layers) + 1, "the first run warms up"
    assert not model.profile_runs({"x": rows(0)}, repeats=1)[0].probes


def test_a_profile_counts_what_each_kernel_reads_and_writes(model: rt.Model) -> None:
    layers = model.profile_runs({"x": rows(0)}, repeats=1)
    weights = sum(weight.array.nbytes for weight in model.artifact.weights().values())
    assert sum(layer.weight_bytes for layer in layers) == weights
    assert all(layer.bytes - layer.weight_bytes >= 2 * 4 * 32 for layer in layers), (
        "a row goes in, a row comes out"
    )


def test_predict_without_a_card_says_so(model: rt.Model) -> None:
    with pytest.raises(rt.InputError, match="compiled without a model card"):
        model.predict(rows(0))
