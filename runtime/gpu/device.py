"""NVIDIA GPUs as a device of the runtime."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgec.runtime.artifact.config import ArtifactConfig
from edgec.runtime.artifact.weights import Weight
from edgec.runtime.device import Device, Executable
from edgec.runtime.gpu.api import GpuApi
from edgec.runtime.gpu.code import is_programs, unpack, unpack_programs
from edgec.runtime.gpu.driver import CudaDriver, shared_driver
from edgec.runtime.gpu.program import GpuFunction

if TYPE_CHECKING:
    from edgec.runtime.execution.fallback import FallbackSegments
    from edgec.runtime.execution.threads import Threading


class GpuDevice(Device):
    """A GPU behind a `GpuApi`, opened when it is needed first."""

    def __init__(self) -> None:
        self._api: GpuApi | None = None

    @abstractmethod
    def open(self) -> GpuApi:
        """Open the device.

        Raises:
            IncompatibleDevice: there is none, or its driver is too old.
        """

    @property
    def api(self) -> GpuApi:
        """The open device."""
        if self._api is None:
            self._api = self.open()
        return self._api

    def check(self) -> None:
        """Open the device: a machine without one is told before anything is loaded."""
        _ = self.api

    def check_code(self, code: bytes, config: ArtifactConfig) -> None:
        """Check the header and everything that it refers to."""
        (unpack_programs if is_programs(code) else unpack)(code)

    def load_installed(self) -> None:
        """Do nothing: the driver is all that is needed."""

    def ensure_runtime(self, bundled: Callable[[str], bytes | None]) -> None:
        """Do nothing: an artifact brings no libraries for a GPU."""

    def function(
        self,
        code: bytes,
        config: ArtifactConfig,
        weights: Sequence[Weight],
        segments: FallbackSegments | None = None,
        calls: bytes | None = None,
    ) -> Executable:
        """Load the code and record a run of it."""
        header, binaries = unpack(code)
        return GpuFunction(self.api, header, binaries, weights, segments)

    @staticmethod
    def use_threads(wanted: Threading) -> None:
        """Do nothing: one thread of the host starts the work."""


class CudaDevice(GpuDevice):
    """An NVIDIA GPU."""

    def open(self) -> CudaDriver:
        """The first GPU that the driver lists (`CUDA_VISIBLE_DEVICES` chooses); all models share its context."""
        return shared_driver()
