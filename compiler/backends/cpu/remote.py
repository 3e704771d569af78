"""Time candidates on a device, by `edgec agent --tune-server` running there."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx import PrimFunc

from edgec.compiler.backends.cpu.library import build_functions
from edgec.compiler.backends.cpu.timing import BUILD_ERRORS
from edgec.compiler.backends.interface import CandidateFailed, Trial
from edgec.compiler.errors import ToolMissing
from edgec.runtime.tuning.connection import Connection, TuneError, check_token
from edgec.targets.target import Target, TimedOn

CONNECT_S = 20.0
ANSWER_S = 600.0


class Device:
    """A connection to a device's tune server.

    Args:
        place: its address and token.
        target: what it has to be.

    Raises:
        ToolMissing: it cannot be reached, refuses the token, or cannot run code for the target.
    """

    def __init__(self, place: TimedOn, target: Target) -> None:
        self.name = f"{place.host}:{place.port}"
        try:
            link = socket.create_connection((place.host, place.port), CONNECT_S)
            link.settimeout(ANSWER_S)
            self._connection = Connection(link, check_token(place.token), serves=False)
            about, _ = self._connection.receive()
        except (OSError, TuneError) as error:
            raise ToolMissing(
                f"no candidates can be timed on {self.name}: {error}. `edgec agent --tune-server` has to run there"
            ) from error
        if "error" in about:
            raise ToolMissing(f"no candidates can be timed on {self.name}: {about['error']}")
        if about["arch"] != target.arch:
            raise ToolMissing(f"{target.name} is {target.arch}; the device at {self.name} is {about['arch']}")
        lacking = sorted(target.features - set(about["features"]))
        if lacking:
            raise ToolMissing(
                f"{target.name} has {', '.join(lacking)}, which the device at {self.name} lacks"
            )

    def ask(self, request: dict[str, Any], blob: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """An answer of the device.

        Raises:
            ToolMissing: it went away.
        """
        try:
            self._connection.send(request, blob)
            return self._connection.receive()
        except TuneError as error:
            raise ToolMissing(
                f"the device at {self.name} went away while it timed candidates: {error}"
            ) from error


_devices: dict[str, Device] = {}


def device_of(place: TimedOn, target: Target) -> Device:
    """The connection to a device, made by the first who needs it.

    Raises:
        ToolMissing: as `Device`.
    """
    key = f"{place.host}:{place.port} {target.name}"
    if key not in _devices:
        _devices[key] = Device(place, target)
    return _devices[key]


class RemoteTrial:
    """A candidate on the device."""

    def __init__(self, trials: RemoteTrials, code: bytes, number: int, output: npt.NDArray[Any]) -> None:
        self.code, self.output = code, output
        self.seconds: list[float] = []
        self._trials, self._number = trials, number

    @property
    def best_s(self) -> float:
        """The shortest time seen, because noise only adds."""
        return min(self.seconds, default=float("inf"))

    def time(self, budget_s: float) -> None:
        """Add measurements of about `budget_s` in all; a candidate that ends its process is never the fastest."""
        answer, _ = self._trials.device.ask({"op": "time", "candidate": self._number, "budget_s": budget_s})
        self.seconds += answer.get("seconds", [float("inf")])

    def rest(self) -> None:
        """The device holds the arguments."""


class RemoteTrials:
    """The candidates of one workload, run on a device."""

    def __init__(self, device: Device, target: Target) -> None:
        self.device, self._target = device, target
        self._output: tuple[tuple[int, ...], str] | None = None

    def add_all(self, kernels: Sequence[PrimFunc]) -> list[Trial | CandidateFailed]:
        """Build candidates here and run each once there."""
        return [self._add(kernel) for kernel in kernels]

    def again(self, trial: Trial) -> RemoteTrial:
        """A trial of earlier trials, beside these."""
        if not isinstance(trial, RemoteTrial):
            raise TypeError("a trial of another kind is timed elsewhere")
        made = self._sent(trial.code)
        if isinstance(made, CandidateFailed):
            made = RemoteTrial(self, trial.code, -1, trial.output)
            made.seconds = [float("inf")]
        return made

    def _add(self, kernel: PrimFunc) -> Trial | CandidateFailed:
        if self._output is None:
            arguments = [
                ([int(d) for d in param.ty.shape], str(param.ty.dtype.dtype)) for param in kernel.params
            ]
            answer, _ = self.device.ask({"op": "workload", "arguments": arguments})
            if "error" in answer:
                return CandidateFailed(answer["error"])
            self._output = tuple(arguments[-1][0]), arguments[-1][1]
        try:
            code = build_functions({"kernel": kernel.with_attr("global_symbol", "kernel")}, self._target)
        except BUILD_ERRORS as error:
            return CandidateFailed((str(error).strip().splitlines() or [type(error).__name__])[-1][:200])
        return self._sent(code)

    def _sent(self, code: bytes) -> RemoteTrial | CandidateFailed:
        answer, content = self.device.ask({"op": "add"}, code)
        if self._output is None or "error" in answer:
            if answer.get("ended"):
                self._output = None  # the next candidate begins a process of its own
            return CandidateFailed(answer.get("error", "no workload was begun"))
        shape, dtype = self._output
        output = np.frombuffer(content, dtype).reshape(shape).copy()
        return RemoteTrial(self, code, answer["candidate"], output)
