"""Arrays that go into a model on a GPU from there, and results that stay there."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from edgec.runtime.errors import InputError
from edgec.runtime.gpu.arrays import place_of
from edgec.runtime.gpu.driver import CudaDriver
from edgec.runtime.gpu.fault import GpuFault
from edgec.runtime.gpu.program import GpuFunction
from edgec.runtime.gpu.results import DeviceResult
from edgec.runtime.standalone.dlpack import described, export
from tests.runtime.gpu.copying import SHAPE, WEIGHT, count, function, x


class Block:
    """Memory of another library on the device, with a stream whose work waits until somebody waits for it."""

    def __init__(self, driver: CudaDriver, content: np.ndarray) -> None:
        self.driver, self.content, self.queue = driver, content, driver.stream()
        self.address = driver.allocate(content.nbytes)
        driver.library._library.fake_slow(self.queue._stream)
        self.queue.copy_in(self.address, content)

    def close(self) -> None:
        self.queue.close()
        self.driver.free(self.address)


class Interface(Block):
    """As Numba and CuPy describe theirs."""

    def __init__(self, driver: CudaDriver, content: np.ndarray, **changed: Any) -> None:
        super().__init__(driver, content)
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": content.shape,
            "typestr": content.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": self.queue.handle,
            **changed,
        }


class Packed(Block):
    """As PyTorch hands them out."""

    device = (2, 0)
    dtype = "float32"

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int) -> object:
        reader = self.driver.stream()
        reader._stream.value, own = stream, reader._stream.value
        reader.follow(self.queue.handle)  # a maker lets the reader's stream wait for its own
        reader._stream.value = own
        reader.close()
        return export(self, self.address, self.content.shape, self.dtype, self.device)


def given(made: GpuFunction, value: Any) -> Any:
    place = place_of(value)
    assert place is not None
    return made.receive("x", value, place)


@pytest.mark.parametrize("kind", [Interface, Packed])
def test_an_input_on_the_device_is_read_after_it_is_written_and_the_host_does_not_wait(
    driver: CudaDriver, kind: type[Block]
) -> None:
    made = function(driver)
    for seed in range(3):
        block = kind(driver, x(seed))
        before = count(driver, "synchronised")
        np.testing.assert_array_equal(made([given(made, block)])[0], x(seed))
        assert count(driver, "synchronised") == before
        block.close()
        np.testing.assert_array_equal(made([x(seed + 7)])[0], x(seed + 7))
    made.close()
    del made, block
    gc.collect()
    assert count(driver, "live") == 0


def test_a_maker_that_does_not_say_what_writes_an_array_is_waited_for(driver: CudaDriver) -> None:
    made = function(driver)
    block = Interface(driver, x(3))
    del block.__cuda_array_interface__["stream"]
    np.testing.assert_array_equal(made([given(made, block)])[0], x(3))


def test_memory_that_was_handed_out_is_given_back(driver: CudaDriver) -> None:
    made = function(driver)
    block = Packed(driver, x())
    closed: list[int] = []
    block.close = lambda: closed.append(1)  # type: ignore[method-assign]

    class Watched(Packed):
        def __del__(self) -> None:
            closed.append(1)

    made([given(made, Watched(driver, x(1)))])
    gc.collect()
    assert closed == [1]


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        (Interface, {"strides": (8,)}, r"'x' on the GPU.*strides \[8\] in bytes.*\nMake it contiguous"),
        (Interface, {"mask": np.ones(16, bool)}, r"'x' on the GPU has a mask.*\nFill it"),
        (Interface, {"data": (64, False)}, r"'x' does not lie on GPU 0.*\nCopy it there"),
        (
            Packed,
            {"device": (2, 1)},
            r"'x' lies on GPU 1, and the model runs on GPU 0.\nCopy it there.*cuda:0",
        ),
        (Packed, {"device": (10, 0)}, r"'x' lies on a ROCm device, and the model"),
        (Packed, {"dtype": "bfloat16"}, r"'x' on the GPU is of bfloat16.*\nConvert it there: x.float"),
    ],
)
def test_what_a_model_cannot_take_from_a_device_is_refused_with_the_way_out(
    driver: CudaDriver, kind: type[Block], changed: dict[str, Any], message: str
) -> None:
    made = function(driver)
    block = kind(driver, x(), **changed) if kind is Interface else kind(driver, x())
    for name, value in changed.items() if kind is Packed else ():
        setattr(block, name, value)
    with pytest.raises(InputError, match=message):
        given(made, block)


def test_a_tensor_that_is_not_handed_out_says_why(driver: CudaDriver) -> None:
    class Learning(Packed):
        def __dlpack__(self, *, stream: int) -> object:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")

    with pytest.raises(InputError, match=r"'x' cannot be read by DLPack: Can't export.*\nPass a plain array"):
        given(function(driver), Learning(driver, x()))


def test_results_stay_on_the_device_and_go_into_the_next_model(driver: CudaDriver) -> None:
    made = function(driver)
    first, second = made.call_keeping([x(1)], frozenset({0}))
    assert isinstance(first, DeviceResult)
    assert (first.shape, first.dtype) == (SHAPE, np.float32)
    np.testing.assert_array_equal(second, WEIGHT)
    again, _ = made.call_keeping([given(made, first)], frozenset({0, 1}))
    np.testing.assert_array_equal(made([x(2)])[0], x(2))
    np.testing.assert_array_equal(again.numpy(), x(1))
    np.testing.assert_array_equal(np.asarray(first), x(1))
    address, interface = first.address, first.__cuda_array_interface__
    assert interface["data"] == (address, False)
    capsule = first.__dlpack__(stream=1)
    assert described(capsule)[1:] == (address, SHAPE, None, "float32")
    assert first.__dlpack_device__() == (2, 0)
    with pytest.raises(BufferError, match=r"numpy\(\)"):
        first.__dlpack__(dl_device=(1, 0))
    made.close()
    np.testing.assert_array_equal(first.numpy(), x(1))  # results outlive their model
    del first, capsule, again, made, _
    gc.collect()
    assert count(driver, "live") == 0


def test_memory_of_results_that_are_gone_is_used_again(driver: CudaDriver) -> None:
    made = function(driver)
    addresses = set()
    for _ in range(5):
        (first, _second) = made.call_keeping([x()], frozenset({0}))
        addresses.add(first.address)
        del first
    assert len(addresses) == 1


def test_a_result_that_a_fault_took_says_so(driver: CudaDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAULT", "700")
    made, bad = function(driver), function(driver, "copy_64", "fault_1")
    kept = made.call_keeping([x()], frozenset({0}))[0]
    block = given(made, kept)
    with pytest.raises(GpuFault):
        bad([x()])
    with pytest.raises(GpuFault, match="result was lost"):
        kept.numpy()
    with pytest.raises(GpuFault, match="input on the GPU was lost"):
        made([block])
    np.testing.assert_array_equal(made([x(5)])[0], x(5))
