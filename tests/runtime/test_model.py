"""Running a loaded model: values, names, errors, threads, closing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.execution.compiled_functions import empty_aligned
from tests.runtime.inputs import Reference, rows
from tests.runtime.processes import run_python
from tests.runtime.side_by_side import side_by_side


@pytest.mark.parametrize(
    "left_over",
    [
        "keep = model.run({'x': x})",
        "model.close(); ",
        "keep = model.run({'x': x}); model.close()",
        "import builtins; builtins.keep = [model, model.run({'x': x}), model._first.engine]",
        "keep = model.run({'x': x}); cycle = [keep, model]; cycle.append(cycle)",
        "import threading; threading.Thread(target=lambda: model.run({'x': x})).start()",
        "import sys; sys.exit(3)",
    ],
)
def test_a_process_ends_cleanly_whatever_it_still_holds(tiny: Path, left_over: str) -> None:
    script = f"""
    import sys, numpy as np, edgec.runtime as rt
    model = rt.load(sys.argv[1]); x = np.zeros((1, 32), "float32"); model.run({{"x": x}})
    {left_over}
    """
    done = run_python(script, tiny)
    assert done.returncode == (3 if "exit" in left_over else 0), done.stderr
    assert "Segfault" not in done.stderr


def test_outputs_stay_valid_after_the_model_is_gone(tiny: Path, reference: Callable[[Any], Any]) -> None:
    x = np.random.default_rng(2).standard_normal((1, 32)).astype("float32")
    with rt.load(tiny) as model:
        kept = [model.run({"x": x * number})["y.0"] for number in range(4)]
    del model
    for number, output in enumerate(kept):
        np.testing.assert_allclose(output, reference(x * number), rtol=1e-5, atol=1e-6)
        assert output.flags.writeable


def test_it_computes_what_the_model_computes(model: rt.Model, reference: Reference) -> None:
    for seed in range(5):
        np.testing.assert_allclose(
            model.run({"x": rows(seed)})["y.0"], reference(rows(seed)), rtol=1e-5, atol=1e-6
        )


def test_inputs_that_may_not_be_written_to_are_read(
    two_outputs: Any, tmp_path: Path, model: rt.Model, reference: Reference
) -> None:
    """As from `np.frombuffer` or a file that is mapped for reading."""
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


class Elsewhere:
    """An array of another library, by DLPack."""

    def __init__(self, content: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self.content, self.device = content, device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **wanted: Any) -> Any:
        return self.content.__dlpack__(**wanted)


def test_arrays_of_other_libraries_are_read_by_dlpack(model: rt.Model, reference: Reference) -> None:
    outputs = model.run({"x": Elsewhere(rows(4))})  # type: ignore[dict-item]
    np.testing.assert_allclose(outputs["y.0"], reference(rows(4)), rtol=1e-5, atol=1e-6)
    outputs = model.session().run({"x": Elsewhere(rows(5))})  # type: ignore[dict-item]
    np.testing.assert_allclose(outputs["y.0"], reference(rows(5)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Elsewhere(rows(0)[0]), r"'x' float32\[1, 32\] was given as float32\[32\]"),
        (
            Elsewhere(rows(0), (2, 0)),
            r"'x' lies on a GPU, and tiny runs on the processor.\nCopy it to the host",
        ),
        (Elsewhere(rows(0), (10, 0)), r"'x' lies on a ROCm device, and tiny runs on the processor.\nCopy"),
        (Elsewhere(np.array(["a"])), r"'x' cannot be read as an array of numpy: .*\nConvert it first"),
    ],
)
def test_arrays_that_a_processor_cannot_take_are_refused_with_the_way_out(
    model: rt.Model, value: Elsewhere, message: str
) -> None:
    with pytest.raises(rt.InputError, match=message):
        model.run({"x": value})  # type: ignore[dict-item]


def test_results_stay_on_no_device_where_the_model_runs_on_the_processor(model: rt.Model) -> None:
    with pytest.raises(rt.InputError, match="tiny runs on the processor, and its results lie there"):
        model.run({"x": rows(0)}, on_device=True)


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
        side_by_side(work, 6)
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


def test_predict_without_a_card_says_so(model: rt.Model) -> None:
    with pytest.raises(rt.InputError, match="compiled without a model card"):
        model.predict(rows(0))
