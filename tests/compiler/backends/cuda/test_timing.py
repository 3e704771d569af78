"""Candidates timed on a GPU: one that is emulated and computes, and one of a driver whose kernels copy or fail."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from tvm import te
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda.backend import CudaBackend
from edgec.compiler.backends.cuda.gpu_backend import UNSOUND
from edgec.compiler.backends.cuda.templates.tiles import Tile
from edgec.compiler.backends.cuda.timing import GpuTrial, GpuTrials
from edgec.compiler.backends.interface import CandidateFailed, Trial, Workload
from edgec.compiler.graph.anchors import encode
from edgec.compiler.options import CompileOptions
from edgec.compiler.tuning.tuner import Tuner
from edgec.runtime.gpu.code import Binary, GpuCode, pack
from edgec.runtime.gpu.driver import CudaDriver
from edgec.targets import load_target
from tests.compiler.backends.cuda.emulator.backend import TARGET, EmulatedBackend
from tests.compiler.backends.cuda.emulator.device import EmulatedApi
from tests.compiler.backends.cuda.test_tensor_product import product, tile
from tests.compiler.tuning.fakes import Notes
from tests.runtime.gpu.conftest import driver, library  # noqa: F401 - fixtures
from tests.runtime.gpu.copying import SHAPE, count, launch, operand


class TimedBackend(EmulatedBackend):
    @cached_property
    def gpu_of_the_tests(self) -> EmulatedApi:
        return EmulatedApi()

    def open(self) -> EmulatedApi:
        return self.gpu_of_the_tests


def work(*candidates: Tile) -> tuple[Workload, TimedBackend]:
    """A product of 16 x 16 x 64, of a workload that the back end found, with other candidates."""
    backend = TimedBackend(TARGET)
    func = product(16, 16, 64)
    found = backend.workload_of(func, encode("matmul", {}), ("matmul",), 1, 1e-3)
    assert found is not None
    made = {
        name: getattr(found, name) for name in ("key", "family", "kind", "flops", "bytes", "threads", "emit")
    }
    return Workload(**made, candidates=candidates), backend


def test_the_fastest_is_kept_by_the_name_of_the_gpu(tmp_path: Path) -> None:
    """What fits the product does least. A tile that its kernel cannot be cut to is dropped with a note."""
    wide, fitting, impossible = tile((2, 2), (2, 2)), tile((1, 1), (1, 1)), tile((1, 1), (1, 1), split=3)
    one, backend = work(wide, impossible, fitting)
    notes = Notes()
    tuner = Tuner(backend, CompileOptions(tune="fast", cache_dir=tmp_path), notes)
    tuner.tune([(one, 1)])
    assert tuner.choose(one) == fitting
    times = tuner.times[one.key]
    assert times[str(fitting)] < times[str(wide)]
    (file, *_) = (tmp_path / "cuda-emulated-sm_89").iterdir()
    assert json.loads(file.read_text())["schedule"] == str(fitting)
    again = Tuner(TimedBackend(TARGET), CompileOptions(tune="none", cache_dir=tmp_path), notes)
    assert again.choose(one) == fitting
    elsewhere = Tuner(EmulatedBackend(TARGET), CompileOptions(tune="fast", cache_dir=tmp_path), notes)
    assert not elsewhere.measures
    assert elsewhere.choose(one) == wide


def test_a_machine_without_a_gpu_of_the_target_times_nothing() -> None:
    """An emulated sm_89 is none of the architectures of an H100."""
    h100 = TimedBackend(load_target("h100"))
    assert CudaBackend(load_target("l4")).winners_key == "l4"
    assert not CudaBackend(load_target("l4")).can_time
    assert TimedBackend(TARGET).can_time
    h100.architectures = lambda: [("cubin", "sm_90")]  # type: ignore[method-assign]
    assert not h100.can_time
    assert h100.winners_key == "h100"


def kernel(number: int) -> PrimFunc:
    """A kernel that a test tells from others by its constant."""
    x = te.placeholder(SHAPE, "float32", "x")
    return te.create_prim_func([x, te.compute(SHAPE, lambda i: x[i] + float(number))])


def code(name: str) -> bytes:
    """What stands for a compiled kernel: one launch, of which the driver of the tests knows what it does."""
    header = GpuCode(
        arena_bytes=0, inputs=(operand("input"),), weights=(), outputs=(operand("output"),),
        steps=(launch(name, operand("input"), operand("output")),),
        binaries=(Binary(arch="sm_80", kind="cubin", kernels=(name,), offset=0, size=5),),
    )  # fmt: skip
    return pack(header, b"cubin")


def test_what_is_refused_or_fails_is_dropped_and_the_others_are_timed(
    driver: CudaDriver,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault takes the context with everything in it: arguments are placed anew."""
    monkeypatch.setenv("FAKE_FAULT", "700")
    kernels = [kernel(number) for number in range(4)]

    def build(func: PrimFunc) -> bytes:
        number = next(n for n, one in enumerate(kernels) if one.same_as(func))
        if number == 1:
            raise ValueError("no code")
        return code("fault_1" if number == 2 else "copy_64")

    before = count(driver, "resets")
    trials = GpuTrials(driver, build, 1 << 20, UNSOUND)
    made: list[Trial | CandidateFailed] = trials.add_all(kernels)
    assert [isinstance(one, GpuTrial) for one in made] == [True, False, False, True]
    assert str(made[1]) == "no code"
    assert "illegal memory access" in str(made[2])
    assert count(driver, "resets") == before + 1
    first, last = made[0], made[3]
    assert isinstance(first, GpuTrial)
    assert isinstance(last, GpuTrial)
    np.testing.assert_array_equal(first.output, last.output)
    assert first.best_s == float("inf")
    launched = count(driver, "launches")
    first.time(0.01)
    last.time(0.01)
    assert 0 < first.best_s < float("inf")
    assert count(driver, "launches") > launched + 10
    again = trials.again(last)
    np.testing.assert_array_equal(again.output, last.output)
    for one in (first, last, again):
        one.rest()
    assert count(driver, "live") == 0
