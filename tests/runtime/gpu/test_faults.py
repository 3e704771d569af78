"""A fault ends its call: models of a process share a GPU's context, which is set up anew once."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from edgec.runtime.gpu.driver import CudaDriver, shared_driver
from edgec.runtime.gpu.fault import GpuFault
from tests.runtime.gpu.copying import WEIGHT, count, function, x


@pytest.mark.parametrize(("fault", "message"), [("702", "ran too long"), ("700", "illegal memory access")])
def test_a_fault_ends_the_call_and_not_the_next_one(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    monkeypatch.setenv("FAKE_FAULT", fault)
    made = function(driver, "copy_64", "fault_1")
    with pytest.raises(GpuFault, match=message):
        made([x()])
    monkeypatch.setenv("FAKE_FAULT", "0")
    np.testing.assert_array_equal(made([x(5)])[0], x(5))
    made.close()
    del made
    assert count(driver, "live") == 0


def test_a_fault_of_one_model_ends_no_later_call_of_another(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count(driver, "resets")
    monkeypatch.setenv("FAKE_FAULT", "700")
    good, bad, unused = function(driver), function(driver, "copy_64", "fault_1"), function(driver)
    np.testing.assert_array_equal(good([x(1)])[0], x(1))
    with pytest.raises(GpuFault):
        bad([x()])
    np.testing.assert_array_equal(good([x(2)])[0], x(2))
    monkeypatch.setenv("FAKE_FAULT", "0")
    np.testing.assert_array_equal(bad([x(3)])[0], x(3))
    np.testing.assert_array_equal(good([x(4)])[0], x(4))
    assert count(driver, "resets") == before + 1
    for one in (good, bad, unused):
        one.close()
    del good, bad, unused, one
    assert count(driver, "live") == 0


def test_models_in_threads_go_on_through_faults_of_one_of_them(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call may fail with the context that it shares; none is wrong, and each model computes again afterwards."""
    monkeypatch.setenv("FAKE_FAULT", "700")
    good, bad = [function(driver), function(driver)], function(driver, "copy_64", "fault_1")
    wrong: list[int] = []
    done = threading.Event()

    def call(number: int) -> None:
        while not done.is_set():
            try:
                if not np.array_equal(good[number]([x(number)])[0], x(number)):
                    wrong.append(number)
            except GpuFault:
                continue

    threads = [threading.Thread(target=call, args=(number % 2,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        with pytest.raises(GpuFault):
            bad([x()])
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    for number, one in enumerate(good):
        np.testing.assert_array_equal(one([x(number + 7)])[0], x(number + 7))


def test_a_driver_that_accepts_no_further_work_is_told_with_the_way_out(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "700")
    monkeypatch.setenv("FAKE_STUCK", "1")
    made = function(driver, "copy_64", "fault_1")
    with pytest.raises(GpuFault, match="illegal memory access"):
        made([x()])
    for _ in range(2):
        with pytest.raises(
            GpuFault, match=r"no further work of this process.*\nStart the process anew"
        ) as told:
            made([x()])
        assert told.value.ends_process
    monkeypatch.delenv("FAKE_STUCK")
    monkeypatch.setenv("FAKE_FAULT", "0")
    np.testing.assert_array_equal(made([x(5)])[0], x(5))


@pytest.mark.parametrize("code", ["700", "100", "999"])
def test_a_device_that_cannot_be_set_up_anew_is_told_with_the_way_out(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "719")
    made = function(driver, "copy_64", "fault_1")
    with pytest.raises(GpuFault, match=r"719.*\n.*next call sets the GPU up anew"):
        made([x()])
    monkeypatch.setenv("FAKE_RESET", code)
    with pytest.raises(
        GpuFault, match=r"no further work of this process: .*\nStart the process anew"
    ) as told:
        made([x()])
    assert told.value.ends_process
    assert len(str(told.value).splitlines()) == 2
    monkeypatch.delenv("FAKE_RESET")
    monkeypatch.setenv("FAKE_FAULT", "0")
    np.testing.assert_array_equal(made([x(5)])[0], x(5))


def test_states_that_a_run_made_are_lost_with_the_context_and_others_are_not(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "700")
    made, bad = function(driver), function(driver, "copy_64", "fault_1")
    calls = made.state_calls((), [(0, 0)])
    begin = calls.put(x(3))
    _, (following,) = calls([], [begin])
    with pytest.raises(GpuFault):
        bad([x()])
    with pytest.raises(GpuFault, match=r"state of this session was lost.*\nBegin again by reset"):
        calls([], [following])
    outputs, (following,) = calls([], [begin])
    np.testing.assert_array_equal(outputs, [WEIGHT])
    np.testing.assert_array_equal(calls.get(following), x(3))


def test_a_fault_within_a_chain_ends_it_and_no_later_call(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "700")
    good, bad = function(driver), function(driver, "copy_64", "fault_1")

    def run() -> None:
        with good.chain() as chain:
            made, _ = good.queue(chain, [x(1)])
            bad([made])

    with pytest.raises(GpuFault, match="illegal memory access"):
        run()
    np.testing.assert_array_equal(good([x(2)])[0], x(2))


def test_models_share_one_driver(library: Path) -> None:
    assert shared_driver(str(library)) is shared_driver(str(library))
