"""A device that models of a process share, through faults: who is inside, and when it is set up anew."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgec.runtime.gpu.fault import GpuFault


class Generations:
    """Counts how often a device was set up anew: what belongs to an earlier generation no longer exists.

    After a fault that lost the context, whichever call comes next sets the device up, once, for all models, and not
    before the calls inside have ended: the memory that they use, that of the host too, goes with the context.

    Args:
        renew: sets the device up anew.

    Attributes:
        number: the present generation.
    """

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = renew
        self._changed = threading.Condition()
        self._inside = 0
        self._of_thread = threading.local()
        self._lost = False
        self.number = 0

    def has(self, generation: int) -> bool:
        """Whether what a generation made still exists and can be released."""
        return generation == self.number and not self._lost

    @contextmanager
    def call(self) -> Iterator[int]:
        """Work with the device; a call inside a call of the same thread is part of it. Yields the present generation.

        Raises:
            GpuFault: it cannot be set up anew.
        """
        if getattr(self._of_thread, "inside", False):
            yield self.number
            return
        with self._changed:
            while self._lost and self._inside:
                self._changed.wait()
            if self._lost:
                self._renew()
                self.number += 1
                self._lost = False
            self._inside += 1
        self._of_thread.inside = True
        try:
            yield self.number
        except GpuFault as fault:
            self._lost = self._lost or fault.lost
            raise
        finally:
            self._of_thread.inside = False
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()
