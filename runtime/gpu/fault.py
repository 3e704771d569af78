"""What ends a run on a GPU."""

from __future__ import annotations

from edgec.runtime.errors import EdgecError


class GpuFault(EdgecError):
    """A kernel or a copy failed while it ran; the run's results are lost, the next run starts afresh.

    Attributes:
        lost: the driver accepts no further work in this context: everything on the device has to be set up anew.
        ends_process: nor in a new context, so that the process has to be started anew.
    """

    exit_code = 6

    def __init__(self, message: str, *, lost: bool = False, ends_process: bool = False) -> None:
        super().__init__(message)
        self.lost, self.ends_process = lost, ends_process
