"""The sessions of one stream: a model with states remembers its frames, and begins anew after a gap."""

from __future__ import annotations

from dataclasses import dataclass

import edgec.runtime as rt
from edgec.device_agent.inference.slots import Loaded
from edgec.device_agent.process.ring import Frame, Kind


@dataclass
class _Open:
    """A model's session, and the last frame that it was given."""

    loaded: Loaded
    session: rt.Session
    number: int = -1
    monotonic_ns: int = 0


class Sessions:
    """One session for each model with states that a stream runs.

    After a gap, the state belongs to a scene that is over: after `gap_s` seconds without a frame for the model, and for
    sound after a chunk that is missing. Pictures that are dropped in between are no gap.
    """

    def __init__(self, gap_s: float) -> None:
        self._gap_ns = gap_s * 1e9
        self._open: dict[str, _Open] = {}
        self.resets = 0

    def of(self, loaded: Loaded, frame: Frame) -> tuple[rt.Session, bool]:
        """The model's session for a frame, and whether it begins with this frame after a gap."""
        held = self._open.get(loaded.digest)
        if held is None or held.loaded is not loaded:
            # those that would begin anew with their next frame: of models that were replaced, too
            over = [d for d, o in self._open.items() if frame.monotonic_ns - o.monotonic_ns > self._gap_ns]
            for digest in over:
                del self._open[digest]
            held = self._open[loaded.digest] = _Open(loaded, loaded.session())
        begins = held.number >= 0 and self._is_gap(held, frame)
        if begins:
            held.session.reset()
            self.resets += 1
        held.number, held.monotonic_ns = frame.number, frame.monotonic_ns
        return held.session, begins

    def _is_gap(self, held: _Open, frame: Frame) -> bool:
        missing = frame.kind is Kind.SOUND and frame.number != held.number + 1
        return missing or frame.monotonic_ns - held.monotonic_ns > self._gap_ns

    def fail(self, loaded: Loaded) -> None:
        """Begin anew after a failed run: its state may be what made it fail, such as NaN."""
        held = self._open.get(loaded.digest)
        if held is not None and held.loaded is loaded:
            held.session.reset()
