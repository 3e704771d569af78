"""Devices with memory of their own: inputs are copied in, the run is waited for, results are copied out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.cpu_device import CpuDevice
from edgec.runtime.device import Device, StagedFunction, device_of
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


class FarDevice(CpuDevice):
    """Buffers are dicts that the host cannot compute with."""

    function = Device.function

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.program = Recorder(self.steps)

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


def test_kinds_of_devices_are_found_by_name() -> None:
    assert isinstance(device_of("cpu"), CpuDevice)
    with pytest.raises(rt.IncompatibleDevice, match=r"this runtime drives .*cpu.* devices, not abacus"):
        device_of("abacus")


def test_the_cpus_buffers_are_arrays_on_a_boundary() -> None:
    device = CpuDevice()
    buffer = device.allocate((3, 5), "float32")
    assert (buffer.shape, buffer.dtype, buffer.ctypes.data % 64) == ((3, 5), "float32", 0)
    device.copy_in(np.ones((3, 5), np.float32), buffer)
    copy = device.copy_out(buffer)
    buffer[...] = 2
    assert (copy == 1).all()
