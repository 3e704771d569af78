"""A GPU's driver as programs need it; `edgec.runtime.gpu.driver.CudaDriver` is the one for CUDA.

Addresses are plain integers, so that a place in an arena is the arena's address and an offset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from edgec.runtime.gpu.generations import Generations
from edgec.runtime.gpu.limits import Limits

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

Extents = tuple[int, int, int]


class Replay(Protocol):
    """Work that was recorded once and can be started as a whole."""

    def start(self, stream: Stream) -> None:
        """Queue it on a stream, which need not be the one on which it was recorded."""

    def close(self) -> None:
        """Release it."""


class Stream(Protocol):
    """A queue of work on the device, done in order."""

    @property
    def handle(self) -> int:
        """As the driver names it, for other libraries."""

    def follow(self, handle: int) -> None:
        """Let later work of this stream wait for what a stream of another library has queued; the host does not wait.

        Args:
            handle: 1 and 2 stand for the driver's default streams, as in its own interface.
        """

    def copy_in(self, address: int, array: Array) -> None:
        """Queue a copy from an array of the host; it must stay as it is until the stream was waited for."""

    def copy_out(self, array: Array, address: int) -> None:
        """Queue a copy to an array of the host."""

    def copy(self, target: int, source: int, size: int) -> None:
        """Queue a copy between two places of the device."""

    def launch(
        self,
        function: Any,  # noqa: ANN401
        grid: Extents,
        block: Extents,
        shared_bytes: int,
        addresses: Sequence[int],
    ) -> None:
        """Queue a kernel whose arguments are all pointers."""

    def record(self, work: Callable[[], None]) -> Replay:
        """Record what `work` queues on this stream, without doing it."""

    def mark(self) -> Any:  # noqa: ANN401 - as the driver describes an event
        """Queue a mark of the time."""

    def seconds_between(self, first: Any, last: Any) -> float:  # noqa: ANN401
        """Device time between two marks that were passed; neither can be used again."""

    def synchronise(self) -> None:
        """Wait for everything that was queued.

        Raises:
            GpuFault: some of it failed.
        """

    def close(self) -> None:
        """Release the stream."""


class GpuApi(Protocol):
    """A device, open for this process."""

    @property
    def name(self) -> str:
        """The product's name."""

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability."""

    @property
    def ordinal(self) -> int:
        """Its number among the GPUs of the process."""

    @property
    def limits(self) -> Limits | None:
        """Its highest rates; None where they are not known."""

    @property
    def generations(self) -> Generations:
        """Everything that uses the device does so in a `call` of it."""

    def check_memory(self, size: int) -> None:
        """Check that so many bytes are free, before anything is loaded.

        Raises:
            IncompatibleDevice: they are not; the message says how many are.
        """

    def ordinal_of(self, address: int) -> int | None:
        """The GPU on which memory of another library lies; None where the driver does not know the address."""

    def allocate(self, size: int) -> int:
        """Memory of the device, aligned to 256 bytes or more.

        Raises:
            IncompatibleDevice: there is not so much; the message says how much is free.
        """

    def free(self, address: int) -> None:
        """Give memory back."""

    def host_array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """An array of the host that the device can copy without a detour; it lives until `close` of its program."""

    def load(self, binary: bytes) -> Any:  # noqa: ANN401 - as the driver describes a module
        """Load machine code.

        Raises:
            IncompatibleDevice: the driver refuses it.
        """

    def unload(self, module: Any) -> None:  # noqa: ANN401
        """Release machine code."""

    def function(self, module: Any, name: str, shared_bytes: int) -> Any:  # noqa: ANN401
        """A kernel of a module, allowed to use so much dynamic shared memory."""

    def stream(self) -> Stream:
        """A new queue of work."""

    def wait_for_all(self) -> None:
        """Wait for all queues of the process: for an array whose maker does not say which one writes it.

        Raises:
            GpuFault: some of their work failed.
        """


@contextmanager
def copies(api: GpuApi) -> Iterator[Stream]:
    """A stream of its own for some copies, which are done when the block ends."""
    stream = api.stream()
    try:
        yield stream
        stream.synchronise()
    finally:
        stream.close()
