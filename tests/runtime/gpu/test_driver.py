"""Programs for GPUs through the driver's C interface, which a library of the tests implements on the host's memory."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from edgec.runtime.artifact.config import ArtifactConfig, KernelInfo, TensorSpec
from edgec.runtime.errors import IncompatibleDevice
from edgec.runtime.gpu.driver import CudaDriver
from edgec.runtime.gpu.driver_library import DriverLibrary
from edgec.runtime.gpu.limits import limits_of
from tests.runtime.gpu.copying import SHAPE, WEIGHT, count, function, x


def test_a_run_computes_and_everything_is_released(driver: CudaDriver) -> None:
    made = function(driver)
    before = count(driver, "launches")
    for seed in range(3):
        first, second = made([x(seed)])
        np.testing.assert_array_equal(first, x(seed))
        np.testing.assert_array_equal(second, WEIGHT)
    assert count(driver, "launches") == before + 6
    made.close()
    del made
    assert count(driver, "live") == 0


def test_results_belong_to_the_caller(driver: CudaDriver) -> None:
    made = function(driver)
    kept = made([x(1)])[0]
    made([x(2)])
    np.testing.assert_array_equal(kept, x(1))
    made.close()


def test_calls_from_several_threads_do_not_meet(driver: CudaDriver) -> None:
    made = function(driver)
    wrong: list[int] = []

    def call(seed: int) -> None:
        for _ in range(50):
            if not np.array_equal(made([x(seed)])[0], x(seed)):
                wrong.append(seed)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    made.close()


def test_memory_that_does_not_suffice_is_told_with_figures(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FREE", "100")
    told = r"Fake GPU has 0 of 1074 MB free, and the model needs 0 MB more\.\nClose models"
    with pytest.raises(IncompatibleDevice, match=told):
        function(driver)
    assert count(driver, "live") == 0


def test_memory_of_the_whole_model_is_asked_for_before_anything_is_loaded(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What other models of the process hold is told; where processor and GPU share memory, allocating decides."""
    first = function(driver)
    monkeypatch.setenv("FAKE_FREE", "700")  # of which the first holds more than a half
    monkeypatch.setattr(driver, "load", lambda _: pytest.fail("code was loaded"))
    with pytest.raises(IncompatibleDevice, match=r"free \(models in this process hold 0 MB\), and the model"):
        function(driver)
    monkeypatch.setenv("FAKE_INTEGRATED", "1")
    with pytest.raises(pytest.fail.Exception, match="code was loaded"):
        function(driver)
    first.close()


@pytest.mark.parametrize(
    ("major", "minor", "kind"),
    [("8", "9", b"cubin"), ("8", "0", b"cubin"), ("9", "0", b"ptx"), ("7", "5", b"ptx")],
)
def test_the_nearest_binary_is_loaded(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch, major: str, minor: str, kind: bytes
) -> None:
    monkeypatch.setenv("FAKE_MAJOR", major)
    monkeypatch.setenv("FAKE_MINOR", minor)
    loaded: list[bytes] = []
    load = driver.load
    monkeypatch.setattr(driver, "load", lambda binary: loaded.append(binary) or load(binary))
    function(driver).close()
    assert loaded == [kind]


def test_a_gpu_without_code_is_refused(driver: CudaDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_MAJOR", "5")
    with pytest.raises(IncompatibleDevice, match=r"has code for sm_75, sm_80; this GPU is sm_59"):
        function(driver)


def test_no_driver_no_device_and_an_old_driver_are_told(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(IncompatibleDevice, match="no NVIDIA driver is installed here"):
        DriverLibrary("libcuda-that-is-not-there.so.1")
    monkeypatch.setenv("FAKE_DEVICES", "0")
    with pytest.raises(IncompatibleDevice, match="finds no GPU here"):
        CudaDriver(DriverLibrary(str(library)))
    monkeypatch.setenv("FAKE_VERSION", "10020")
    with pytest.raises(IncompatibleDevice, match=r"is for CUDA 10\.2.*for CUDA 11\.4 or later"):
        CudaDriver(DriverLibrary(str(library)))


def test_the_limits_of_the_gpu_follow_from_its_clocks(driver: CudaDriver) -> None:
    """Those of an L4, whose data sheet has 30.3 and 121 TFLOP/s and 300 GB/s."""
    limits = driver.limits
    assert limits is not None
    assert limits.fp32_gflops == pytest.approx(30.3e3, rel=0.01)
    assert limits.tensor_gflops == pytest.approx(121e3, rel=0.01)
    assert limits.gbytes == pytest.approx(300, rel=0.01)


@pytest.mark.parametrize(
    ("name", "capability", "multiprocessors", "mhz", "fp32", "tensor"),
    [
        ("Tesla T4", (7, 5), 40, 1590, 8.1, 65), ("A100-SXM4-40GB", (8, 0), 108, 1410, 19.5, 312),
        ("NVIDIA A10", (8, 6), 72, 1695, 31.2, 125), ("Orin AGX", (8, 7), 16, 1300, 5.3, 42.5),
        ("NVIDIA H100 80GB HBM3", (9, 0), 132, 1830, 61.9, 989),
        ("NVIDIA GeForce RTX 4090", (8, 9), 128, 2520, 82.6, 165.2),
    ],
)  # fmt: skip
def test_rates_of_a_multiprocessor_give_the_published_peaks(
    name: str, capability: tuple[int, int], multiprocessors: int, mhz: int, fp32: float, tensor: float
) -> None:
    """In TFLOP/s; H100's data sheet has its fp32 at the clock of 1980 MHz."""
    limits = limits_of(name, capability, multiprocessors, mhz * 1000, 1, 1)
    assert limits is not None
    assert limits.fp32_gflops / 1e3 == pytest.approx(fp32, rel=0.01)
    assert limits.tensor_gflops / 1e3 == pytest.approx(tensor, rel=0.01)


def test_marks_whose_time_was_read_are_used_again(driver: CudaDriver) -> None:
    stream = driver.stream()
    before = count(driver, "live")
    for _ in range(5):
        begin, end = stream.mark(), stream.mark()
        assert stream.seconds_between(begin, end) > 0
    assert count(driver, "live") == before + 2
    stream.close()
    assert count(driver, "live") == before - 1


def test_a_fork_of_a_process_with_an_open_gpu_is_told_the_way_out(driver: CudaDriver) -> None:
    made = function(driver)
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        said = "it ran"
        try:
            made([x()])
        except IncompatibleDevice as error:
            said = str(error)
        finally:
            os.write(tell, said.encode())
            os._exit(0)
    os.waitpid(child, 0)
    assert "cannot be used in its forks: load the model after the fork" in os.read(told, 4096).decode()
    os.close(told)
    os.close(tell)
    np.testing.assert_array_equal(made([x(2)])[0], x(2))
    made.close()


def test_a_run_is_timed_between_events(driver: CudaDriver) -> None:
    made = function(driver)
    assert all(seconds > 0 for seconds in made.device_seconds([x()], 3))
    assert len(made.device_seconds([x()], 3)) == 3
    made.close()


def test_states_stay_on_the_device(driver: CudaDriver) -> None:
    """The first output is the input's next value: what goes in as a state comes out as the next one."""
    made = function(driver)
    calls = made.state_calls((), [(0, 0)])
    state = calls.put(x(3))
    outputs, (following,) = calls([], [state])
    np.testing.assert_array_equal(outputs, [WEIGHT])
    np.testing.assert_array_equal(calls.get(following), x(3))
    np.testing.assert_array_equal(calls.get(state), x(3))
    np.testing.assert_array_equal(made([x(4)])[0], x(4))
    del state, following
    calls.close()
    made.close()
    del made
    assert count(driver, "live") == 0


def test_a_chain_of_programs_waits_once_and_runs_on_one_stream(driver: CudaDriver) -> None:
    first, second, last = function(driver), function(driver), function(driver)
    streams = count(driver, "waited")
    for seed in range(3):
        before = count(driver, "waits")
        with first.chain() as chain:
            made, _ = first.queue(chain, [x(seed)])
            made, _ = second.queue(chain, [made])
            assert count(driver, "waits") == before
            found, weight = last([made])
        assert count(driver, "waits") == before + 1
        np.testing.assert_array_equal(found, x(seed))
        np.testing.assert_array_equal(weight, WEIGHT)
    assert count(driver, "waited") == streams  # no stream waits for another one
    for one in (first, second, last):
        np.testing.assert_array_equal(one([x(9)])[0], x(9))
        one.close()
    del first, second, last, one, made, _
    assert count(driver, "live") == 0


def test_a_chain_that_ends_early_leaves_its_programs_to_others(driver: CudaDriver) -> None:
    made = function(driver)
    before = count(driver, "waits")

    def end_early() -> None:
        with made.chain() as chain:
            made.queue(chain, [x(1)])
            raise ValueError("early")

    with pytest.raises(ValueError, match="early"):
        end_early()
    assert count(driver, "waits") == before + 1
    np.testing.assert_array_equal(made([x(2)])[0], x(2))


def test_calls_of_different_kinds_share_one_memory(driver: CudaDriver) -> None:
    """What stays on the device differs; the arena, of which a large model has but one, does not."""
    made = function(driver)
    made([x()])
    free = driver._memory()[0]
    state = made.state_calls((), [(0, 0)])
    state([], [state.put(x(1))])
    made.call_keeping([x(2)], frozenset({0}))
    assert free - driver._memory()[0] < 2 * 256 + 256 * 3  # results and states only
    np.testing.assert_array_equal(made([x(3)])[0], x(3))


def test_layers_are_timed_by_events(driver: CudaDriver) -> None:
    made = function(driver)
    spec = TensorSpec(name="x", safe_name="x", shape=SHAPE, dtype="float32")
    config = ArtifactConfig(
        name="model", target="l4", arch="any", inputs=(spec,), outputs=(spec,),
        kernels={"layer": KernelInfo(op="copy", calls=(("node",),))},
    )  # fmt: skip
    layers = made.profile_runs(config, [x()], 3)
    assert [layer.kernel for layer in layers] == ["layer", "copy"]
    assert layers[0].nodes == ("node",)
    assert layers[1].weight_bytes == 64
    assert all(len(layer.seconds) == 3 and min(layer.seconds) > 0 for layer in layers)
    made.close()
    del made
    assert ctypes.c_int(count(driver, "live")).value == 0
