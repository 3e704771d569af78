"""Devices with memory of their own: inputs are copied in, the run is waited for, results are copied out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.cpu_device import CpuDevice
from edgec.runtime.device import StagedDevice, StagedFunction, device_of
from tests.runtime.artifact.artifacts import config


class Recorder:
    """A program that adds its buffers once the device is waited for."""

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps
        self.started: list[tuple[Any, Sequence[Any]]] = []

    def __call__(self, buffers: Sequence[Any], /) -> list[Any]:
        self.steps.append("run")
        result = {"array": None}
        self.started.append((result, buffers))
        return [result]

    def profile_runs(
        self, config: Any, buffers: Sequence[Any], repeats: int, probe: Any = None, /
    ) -> list[Any]:
        self.steps.append(f"profile {repeats}")
        return [len(buffers)]

    def close(self) -> None:
        self.steps.append("close")


class FarDevice(StagedDevice):
    """Buffers are dicts that the host cannot compute with."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.program = Recorder(self.steps)

    def check(self) -> None: ...

    def check_code(self, code: bytes, config: Any) -> None: ...

    def load_installed(self) -> None: ...

    def ensure_runtime(self, bundled: Any) -> None: ...

    @staticmethod
    def use_threads(wanted: Any) -> None: ...

    def allocate(self, shape: Sequence[int], dtype: Any) -> Any:
        return {"array": np.empty(shape, dtype)}

    def copy_in(self, array: Any, buffer: Any) -> None:
        self.steps.append("in")
        buffer["array"][...] = array

    def copy_out(self, buffer: Any) -> Any:
        self.steps.append("out")
        return buffer["array"].copy()

    def load(self, *_: Any) -> Any:
        return self.program

    def synchronise(self) -> None:
        self.steps.append("wait")
        for result, buffers in self.program.started:
            result["array"] = sum(buffer["array"] for buffer in buffers)


def test_a_run_is_staged_through_the_devices_memory() -> None:
    device = FarDevice()
    function = device.function(b"", config(), [])
    assert isinstance(function, StagedFunction)
    a, b = np.float32([1, 2]), np.float32([10, 20])
    (found,) = function([a, b])
    assert found.tolist() == [11, 22]
    assert device.steps == ["in", "in", "run", "wait", "out"]
    a[0] = 100
    assert found.tolist() == [11, 22]


def test_a_profile_copies_inputs_once_and_closing_reaches_the_program() -> None:
    device = FarDevice()
    function = device.function(b"", config(), [])
    assert function.profile_runs(config(), [np.zeros(2), np.ones(2)], 5) == [2]
    function.close()
    assert device.steps == ["in", "in", "profile 5", "close"]


def test_a_state_never_leaves_the_devices_memory() -> None:
    device = FarDevice()
    calls = device.function(b"", config(), []).state_calls(config().inputs * 2, [(1, 0)])
    state = calls.put(np.float32([1, 2]))
    for _ in range(3):
        before = state
        outputs, (state,) = calls([np.float32([10, 20])], [state])
        assert outputs == []
        assert state is not before
    assert calls.get(state).tolist() == [31, 62]
    assert device.steps == ["in", *["in", "run", "wait"] * 3, "wait", "out"]


def test_kinds_of_devices_are_found_by_name() -> None:
    assert isinstance(device_of("cpu"), CpuDevice)
    with pytest.raises(rt.IncompatibleDevice, match=r"this runtime drives .*cpu.* devices, not abacus"):
        device_of("abacus")
