"""Programs one after another on one stream of a GPU: the host waits once, for what the last of them makes."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Protocol, TypeVar

from edgec.runtime.gpu.api import GpuApi, Stream
from edgec.runtime.gpu.fault import GpuFault


class Queued(Protocol):
    """What a program works in.

    Attributes:
        own: the stream that it has alone.
        stream: the stream that its work is queued on.
    """

    own: Stream
    stream: Stream


Q = TypeVar("Q", bound=Queued)


class Chain:
    """What one program makes is the next one's input where it lies; all contexts are held until the end.

    A call that is given an array of a chain joins it. Its stream is that of the first program.

    Args:
        api: the GPU.
    """

    def __init__(self, api: GpuApi) -> None:
        self._api = api
        self._held = ExitStack()
        self._stream: Stream | None = None
        self._queued = False

    def join(self, context: Queued) -> None:
        """Let a context's work be queued on the chain's stream."""
        if self._stream is None:
            self._stream = context.own
        context.stream = self._stream
        self._queued = True

    def hold(self, context: AbstractContextManager[Q]) -> Q:
        """Take a context until the end of the chain, in which its results stay as they are."""
        taken = self._held.enter_context(context)
        self.join(taken)
        return taken

    def keep(self, owner: object) -> None:
        """Keep what a program of the chain needs."""
        self._held.callback(lambda: owner)

    def waited(self) -> None:
        """Everything that was queued is done."""
        self._queued = False

    def __enter__(self) -> Chain:
        self._held.enter_context(self._api.generations.call())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # What ended early leaves work behind, which uses the contexts that others take next.
            if self._queued and self._stream is not None and not isinstance(error, GpuFault):
                self._stream.synchronise()
        except GpuFault as fault:
            self._held.__exit__(GpuFault, fault, fault.__traceback__)
            raise
        self._held.__exit__(kind, error, trace)
