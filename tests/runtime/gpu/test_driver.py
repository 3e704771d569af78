"""Programs for GPUs through the driver's C interface, which a library of the tests implements on the host's memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgec.runtime.artifact.config import ArtifactConfig, KernelInfo, TensorSpec
from edgec.runtime.artifact.weights import Weight
from edgec.runtime.errors import IncompatibleDevice, InputError
from edgec.runtime.gpu.api import GpuFault
from edgec.runtime.gpu.code import Binary, Copy, GpuCode, Launch, Operand
from edgec.runtime.gpu.driver import CudaDriver, DriverLibrary
from edgec.runtime.gpu.program import GpuFunction

SOURCE = Path(__file__).with_name("driver.c")
SHAPE = (16,)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", made, SOURCE],
        check=True,
    )
    return made


@pytest.fixture
def driver(library: Path) -> Iterator[CudaDriver]:
    made = CudaDriver(DriverLibrary(str(library)))
    yield made
    made.reset()


def count(driver: CudaDriver, what: str) -> int:
    return int(getattr(driver.library._library, f"fake_{what}")())


def operand(place: str, index: int = 0, offset: int = 0) -> Operand:
    return Operand(place=place, index=index, offset=offset, shape=SHAPE, dtype="float32")  # type: ignore[arg-type]


def launch(kernel: str, source: Operand, target: Operand) -> Launch:
    return Launch(kernel=kernel, layer="layer", grid=(1, 1, 1), block=(32, 1, 1), arguments=(source, target))


def code(*names: str) -> GpuCode:
    """The input through the arena to the first output; the weight to the second."""
    first, *others = names or ("copy_64",)
    return GpuCode(
        arena_bytes=128,
        inputs=(operand("input"),),
        weights=(operand("weight"),),
        outputs=(operand("output"), operand("output", 1)),
        steps=(
            launch(first, operand("input"), operand("arena", offset=64)),
            *(launch(name, operand("arena"), operand("arena")) for name in others),
            launch("copy_64", operand("arena", offset=64), operand("output")),
            Copy(source=operand("weight"), target=operand("output", 1)),
        ),
        binaries=(
            Binary(arch="sm_80", kind="cubin", kernels=tuple({first, "copy_64", *others}), offset=0, size=5),
            Binary(arch="sm_75", kind="ptx", kernels=tuple({first, "copy_64", *others}), offset=5, size=3),
        ),
    )


WEIGHT = np.arange(16, dtype="float32")


def function(driver: CudaDriver, *names: str) -> GpuFunction:
    return GpuFunction(driver, code(*names), memoryview(b"cubinptx"), [Weight(WEIGHT, "float32")], None)


def x(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype("float32")


def test_a_run_computes_and_everything_is_released(driver: CudaDriver) -> None:
    made = function(driver)
    for seed in range(3):
        first, second = made([x(seed)])
        np.testing.assert_array_equal(first, x(seed))
        np.testing.assert_array_equal(second, WEIGHT)
    assert count(driver, "launches") == 6
    made.close()
    del made
    assert count(driver, "live") == 0


def test_results_belong_to_the_caller(driver: CudaDriver) -> None:
    made = function(driver)
    kept = made([x(1)])[0]
    made([x(2)])
    np.testing.assert_array_equal(kept, x(1))
    made.close()


class OnDevice:
    """An array on the device, as CuPy and PyTorch describe theirs."""

    def __init__(
        self, driver: CudaDriver, content: np.ndarray, strides: tuple[int, ...] | None = None
    ) -> None:
        self.address = driver.allocate(content.nbytes)
        stream = driver.stream()
        stream.copy_in(self.address, content)
        stream.synchronise()
        stream.close()
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": content.shape,
            "typestr": content.dtype.str,
            "data": (self.address, False),
            "strides": strides,
        }


def test_an_input_that_lies_on_the_device_is_taken_from_there(driver: CudaDriver) -> None:
    made = function(driver)
    for seed in range(2):
        given = OnDevice(driver, x(seed))
        before = count(driver, "synchronised")
        np.testing.assert_array_equal(made([given])[0], x(seed))  # type: ignore[list-item]
        assert count(driver, "synchronised") == before + 1  # whoever writes it may not be done
        driver.free(given.address)
        np.testing.assert_array_equal(made([x(seed + 7)])[0], x(seed + 7))
    made.close()
    del made
    assert count(driver, "live") == 0


def test_an_input_on_the_device_with_gaps_is_refused_with_the_way_out(driver: CudaDriver) -> None:
    made = function(driver)
    given = OnDevice(driver, x(), strides=(8,))
    with pytest.raises(InputError, match=r"has strides \[8\].*\n.*contiguous"):
        made([given])  # type: ignore[list-item]
    driver.free(given.address)
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


def test_memory_that_does_not_suffice_is_told_with_figures(
    driver: CudaDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FREE", "100")
    with pytest.raises(IncompatibleDevice, match=r"Fake GPU has .* MB free, and the model needs .* MB more"):
        function(driver)
    monkeypatch.delenv("FAKE_FREE")
    assert count(driver, "live") == 0


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
