"""The models of the inference process: loading beside the running one, swapping between two frames."""

from __future__ import annotations

import os
import queue
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import edgec.runtime as rt
from edgec.device_agent.inference.messages import ModelCounters, SlotCounters
from edgec.device_agent.inference.stats import ModelStats
from edgec.runtime.artifact.golden import golden_inputs
from edgec.runtime.errors import EdgecError

MODEL_ERRORS = (
    EdgecError,
    RuntimeError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    OSError,
    MemoryError,
)
"""The exceptions of compiled models and their loader; any other is a defect of edgec and ends the process."""
_WARM_UP_RUNS = 3


@dataclass
class Loaded:
    """A loaded model."""

    model: rt.Model
    name: str
    version: str
    digest: str
    kind: str
    """Kind of its events: detection, classification, …"""
    card: Any
    stats: ModelStats = field(default_factory=ModelStats)

    @property
    def has_states(self) -> bool:
        """Whether its results depend on the frames before."""
        return bool(self.model.config.states)

    def session(self) -> rt.Session:
        """Open a session, whose runs fail on NaN as the model's do."""
        return self.model.session()

    def reference(self) -> dict[str, str]:
        """Return the `model` part of an event."""
        return {"name": self.name, "version": self.version, "manifest_digest": self.digest}

    def counters(self) -> ModelCounters:
        """Return its counters since it was loaded."""
        return self.stats.report(self.name, self.version, self.digest)


_KINDS = {
    "classification": "classification", "keyword": "sound", "sound-events": "sound", "heatmap": "keypoints",
    "segmentation": "segment", "anomaly": "anomaly",
}  # fmt: skip


def load_model(path: str, digest: str | None, threads: int | None) -> Loaded:
    """Load, check and warm up a model.

    Raises:
        EdgecError: it is damaged, for other hardware, or fails on a blank input.
    """
    artifact = rt.Artifact.open(path, digest=digest)
    card = artifact.card()
    model = rt.load(Path(path), digest=digest, threads=threads)
    model.refuse_nan = True
    config = artifact.config
    decoder = card.output.decoder if card else "raw"
    loaded = Loaded(
        model, config.name, config.version, artifact.manifest_digest, _KINDS.get(decoder, "detection"), card
    )
    for _ in range(_WARM_UP_RUNS):
        model.run(golden_inputs(model.inputs))
    return loaded


@dataclass
class Slot:
    """A slot for one model."""

    active: Loaded | None = None
    previous: Loaded | None = None
    """Stays loaded while the active one is on probation, so that a rollback takes effect with the next frame."""
    waiting: dict[str, Loaded] = field(default_factory=dict)
    """Models loaded beside the active one, by token."""
    held: bool = False
    """Frames wait while the first model is being loaded."""


class Slots:
    """All slots; a separate thread loads models while frames are processed."""

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}
        self._done: queue.SimpleQueue[tuple[str, str, Loaded | str]] = queue.SimpleQueue()
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)
        """Becomes readable when a load has ended."""

    def active(self, name: str | None) -> Loaded | None:
        """Return the active model of a slot."""
        slot = self._slots.get(name) if name else None
        return slot.active if slot else None

    def hold(self, name: str) -> None:
        """Let the slot's frames wait while its first model is loaded."""
        slot = self._slots.setdefault(name, Slot())
        slot.held = slot.active is None

    def held(self, name: str | None) -> bool:
        """Return whether frames for this slot wait."""
        slot = self._slots.get(name) if name else None
        return slot is not None and slot.held

    def load(self, name: str, token: str, path: str, digest: str | None, threads: int | None) -> None:
        """Begin to load a model beside the active one; `finished` returns the outcome."""

        def work() -> None:
            try:
                result: Loaded | str = load_model(path, digest, threads)
            except MODEL_ERRORS as error:
                result = f"{type(error).__name__}: {error}"
            self._done.put((name, token, result))
            os.eventfd_write(self.wake, 1)

        self._slots.setdefault(name, Slot())
        threading.Thread(target=work, name=f"load-{name}", daemon=True).start()

    def finished(self) -> list[tuple[str, str]]:
        """Return (token, error or empty) of the loads that ended since the last call."""
        ended = []
        while not self._done.empty():
            name, token, result = self._done.get()
            if isinstance(result, Loaded):
                self._slots.setdefault(name, Slot()).waiting[token] = result
            ended.append((token, "" if isinstance(result, Loaded) else result))
        return ended

    def swap(self, name: str, token: str) -> bool:
        """Make a loaded model the active one, from the next frame on; the old one stays loaded."""
        slot = self._slots.get(name)
        if slot is None or token not in slot.waiting:
            return False
        if slot.previous is not None:
            slot.previous.model.close()
        slot.previous, slot.active = slot.active, slot.waiting.pop(token)
        slot.held = False
        return True

    def revert(self, name: str) -> bool:
        """Put the old model back, from the next frame on."""
        slot = self._slots.get(name)
        if slot is None or slot.previous is None:
            return False
        if slot.active is not None:
            slot.active.model.close()
        slot.active, slot.previous = slot.previous, None
        return True

    def release(self, name: str, *, waiting: bool = True) -> None:
        """Unload the previous model, and loaded ones that were never activated."""
        slot = self._slots.get(name)
        if slot is None:
            return
        if slot.previous is not None:
            slot.previous.model.close()
            slot.previous = None
        if waiting:
            for loaded in slot.waiting.values():
                loaded.model.close()
            slot.waiting.clear()

    def discard(self, name: str, token: str) -> None:
        """Unload a model that was never activated."""
        slot = self._slots.get(name)
        if slot is not None and (loaded := slot.waiting.pop(token, None)) is not None:
            loaded.model.close()

    def remove(self, name: str) -> None:
        """Remove a slot and unload its models."""
        self.release(name)
        slot = self._slots.pop(name, None)
        if slot and slot.active:
            slot.active.model.close()

    def report(self) -> dict[str, SlotCounters]:
        """Return each slot's counters, those of the previous model while it is loaded."""
        return {
            name: SlotCounters(
                slot.active.counters() if slot.active else None,
                slot.previous.counters() if slot.previous else None,
            )
            for name, slot in self._slots.items()
        }


def timed(loaded: Loaded, frame: Any) -> tuple[Any, float]:  # noqa: ANN401 - the model's own types
    """Return `predict`'s result and the milliseconds it took."""
    begin = time.perf_counter_ns()
    results = loaded.model.predict(frame)
    return results, (time.perf_counter_ns() - begin) / 1e6
