"""One stream's pipeline from frames to events: gate, model, tracker, zones and rules."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgec.device_agent.config.settings import StreamSection
from edgec.device_agent.inference.captures import ProcessedFrame, StreamCaptures
from edgec.device_agent.inference.comparison import Comparison
from edgec.device_agent.inference.findings import Findings, findings_of
from edgec.device_agent.inference.gate import GateKeeper
from edgec.device_agent.inference.media import StreamMedia
from edgec.device_agent.inference.messages import PipelineCounters
from edgec.device_agent.inference.rules import Firing, RuleBook, ZoneMap
from edgec.device_agent.inference.sessions import Sessions
from edgec.device_agent.inference.slots import MODEL_ERRORS, Loaded, timed
from edgec.device_agent.inference.stats import Window
from edgec.device_agent.inference.tracker import Seen, Track, Tracker
from edgec.device_agent.process.ring import Frame, Kind
from edgec.device_agent.view.spectrogram import Spectrogram
from edgec.runtime import Session
from edgec.runtime.errors import BrokenOutput
from edgec.runtime.gpu.fault import GpuFault
from edgec.runtime.processing.results import Result
from edgec.runtime.processing.sound_stream import SoundStream

Emit = Callable[[dict[str, Any], bool], None]
"""Takes an event's `data` and whether it is critical (must not be lost)."""


def _raise_what_ends_the_process(error: Exception) -> None:
    """After some faults a GPU's driver accepts nothing more of a process: the supervisor starts another."""
    if isinstance(error, GpuFault) and error.ends_process:
        raise error


class Pipeline:
    """Turns the frames of one stream into events.

    `prefix` makes track ids unique on the device. `watch` is called with a model's digest before the model is called,
    and with an empty string afterwards.
    """

    def __init__(
        self,
        name: str,
        settings: StreamSection,
        prefix: str,
        emit: Emit,
        watch: Callable[[str], None],
        media: StreamMedia | None = None,
        captures: StreamCaptures | None = None,
    ) -> None:
        self.name, self.settings = name, settings
        self._emit, self._watch, self._media, self.captures = emit, watch, media, captures
        self._second: tuple[Loaded, list[Seen], bool] | None = None
        """The candidate, its findings on the current frame as in `_seen`, and whether the models differ."""
        self._seen: list[Seen] = []
        """The model's findings on the current frame, before labels and threshold are applied."""
        candidate = settings.candidate
        self._comparison = Comparison(candidate.share) if candidate else None
        self._gate = GateKeeper(settings.gate) if settings.gate else None
        self._tracker = Tracker(settings.tracker, prefix)
        self._zones = ZoneMap(settings.zones)
        self._rules = RuleBook(settings.rules, f"{prefix}r-")
        self._updated: dict[str, float] = {}
        self._sound = SoundFeed()
        self._sessions = Sessions(settings.state_gap_s)
        self._last: tuple[Frame, Loaded | None, tuple[int, int]] | None = None
        self.gated = self.events = self.errors = 0
        self.message = ""
        self.stages = {stage: Window() for stage in ("queue", "inference", "post", "total")}
        self.tracks: list[Track] = []
        self._shown: list[Track] = []
        """The tracks of the frame that was processed last; none if the model did not see it."""
        self.spectrogram: Spectrogram | None = None
        """Of a stream of sound."""
        self.kind = "detection"

    def change(self, settings: StreamSection) -> None:
        """Go on with settings that differ in `LIVE` only, from the next frame on; tracks and counters stay."""
        if settings.candidate != self.settings.candidate:
            self._comparison = Comparison(settings.candidate.share) if settings.candidate else None
            self._second = None
        self.settings = settings
        if self.captures is not None:
            self.captures.change(settings)

    def process(self, frame: Frame, loaded: Loaded | None, slots: Callable[[str], Loaded | None]) -> None:
        """Process one frame; the caller releases it afterwards."""
        begin = time.monotonic_ns()
        self.stages["queue"].add((begin - frame.monotonic_ns) / 1e6)
        now_s = frame.monotonic_ns / 1e9
        if frame.kind is Kind.SOUND:
            self._draw_sound(frame)
        else:
            self._shown = []
        if self._gate and not self._gate.passes(frame, now_s):
            self.gated += 1
            return
        self._second = None
        found, loaded = self._choose(frame, loaded, slots)
        if found is None or loaded is None:
            return
        after = time.monotonic_ns()
        self.stages["inference"].add((after - begin) / 1e6)
        self.kind = found.kind
        height, width = (frame.data.shape[0], frame.data.shape[1]) if frame.kind is Kind.PICTURE else (0, 0)
        self._last = (frame, loaded, (width, height))
        if self.captures is not None:
            self._capture(frame, loaded, slots)
        self._track(found, frame, loaded, (width, height), now_s, slots)
        self._shown = self.tracks
        done = time.monotonic_ns()
        self.stages["post"].add((done - after) / 1e6)
        self.stages["total"].add((done - frame.monotonic_ns) / 1e6)

    def _draw_sound(self, frame: Frame) -> None:
        if self.spectrogram is None or self.spectrogram.rate != frame.rate:
            self.spectrogram = Spectrogram(frame.rate)
        self.spectrogram.push(np.asarray(np.mean(frame.data, axis=1), np.float32))

    def _capture(self, frame: Frame, loaded: Loaded, slots: Callable[[str], Loaded | None]) -> None:
        assert self.captures is not None
        processed = ProcessedFrame(frame, loaded, self._seen)
        if self.spectrogram is not None and frame.kind is Kind.SOUND:
            processed.spectrogram = self.spectrogram.picture
        if self._second is not None:
            processed.other, processed.other_found, processed.disagreed = self._second
        self.captures.consider(processed, slots)

    def _choose(
        self, frame: Frame, loaded: Loaded | None, slots: Callable[[str], Loaded | None]
    ) -> tuple[Findings | None, Loaded | None]:
        """Run the stream's model; with a candidate, run that as well or instead."""
        candidate, comparison = self.settings.candidate, self._comparison
        if candidate is None or comparison is None or frame.kind is not Kind.PICTURE or not comparison.due():
            return self._infer(frame, loaded), loaded
        other = slots(candidate.model)
        if other is None:
            return self._infer(frame, loaded), loaded
        if candidate.mode == "ab":
            return self._infer(frame, other), other
        second, seen = self._infer(frame, other), self._seen
        found = self._infer(frame, loaded)
        if found is not None and second is not None:
            self._second = other, seen, comparison.add(found, second) < 1.0
        return found, loaded

    def _infer(self, frame: Frame, loaded: Loaded | None) -> Findings | None:
        if loaded is None:
            return None
        self._watch(loaded.digest)
        try:
            begin = time.perf_counter_ns()
            results = self._results(frame, loaded)
            milliseconds = (time.perf_counter_ns() - begin) / 1e6
            if results is None:  # the window of sound is not full yet
                return None
            found = findings_of(results, loaded.kind)
        except (*MODEL_ERRORS, BrokenOutput) as error:
            _raise_what_ends_the_process(error)
            self.errors += 1
            self.message = f"{type(error).__name__}: {error}"[:300]
            loaded.stats.fail(self.message)
            self._sessions.fail(loaded)
            return None
        finally:
            self._watch("")
        loaded.stats.add(milliseconds, found.scores)
        self.message = ""
        self._seen = [*found.boxes, *found.labels]
        return self._filtered(found)

    def _results(self, frame: Frame, loaded: Loaded) -> list[Result] | None:
        """The model's results for a frame, after those before it if the model has states; None before a full window."""
        session: Session | None = None
        if loaded.has_states:
            session, begins = self._sessions.of(loaded, frame)
            if begins:
                self._sound.forget()
        if frame.kind is Kind.SOUND:
            return self._sound.push(frame, loaded, session)
        return (session or loaded.model).predict(frame.data)

    def _filtered(self, found: Findings) -> Findings:
        labels, threshold = self.settings.labels, self.settings.threshold
        if labels is None and threshold is None:
            return found
        least = threshold or 0.0
        for part in (found.boxes, found.labels):
            part[:] = [one for one in part if one.score >= least and (labels is None or one.label in labels)]
        return found

    def _track(
        self,
        found: Findings,
        frame: Frame,
        loaded: Loaded,
        size: tuple[int, int],
        now_s: float,
        slots: Callable[[str], Loaded | None],
    ) -> None:
        change = self._tracker.update([*found.boxes, *found.labels], now_s, frame.wall_ns)
        self.tracks = self._tracker.confirmed(now_s)
        if self.settings.cascade and frame.kind is Kind.PICTURE:
            self._classify_tracks(frame, slots(self.settings.cascade.model), now_s)
        zones = {track.id: self._zones.of(track, *size) for track in self.tracks}
        if self._media is not None and frame.kind is Kind.PICTURE:
            self._media.frame(frame.number, np.asarray(frame.data, np.uint8), now_s)
        for track in change.new:
            self._updated[track.id] = now_s
            self._report_track(track, "new", zones.get(track.id, []), frame, loaded, size)
        for track in self.tracks:
            if now_s - self._updated.get(track.id, now_s) >= self.settings.update_interval_s:
                self._updated[track.id] = now_s
                self._report_track(track, "update", zones.get(track.id, []), frame, loaded, size)
        for track in change.ended:
            self._updated.pop(track.id, None)
            self._report_track(track, "end", [], frame, loaded, size)
        if self.settings.rules:
            extent = (float(size[0] or 1), float(size[1] or 1))
            for firing in self._rules.update(self.tracks, zones, now_s, extent):
                self._fire(firing, frame, loaded, size, now_s)

    def _classify_tracks(self, frame: Frame, second: Loaded | None, now_s: float) -> None:
        """Crop each selected track and classify it with the second model, at most once per second."""
        cascade = self.settings.cascade
        if cascade is None or second is None:
            return
        for track in self.tracks:
            if track.box is None or (cascade.labels is not None and track.label not in cascade.labels):
                continue
            looked = track.attributes.get(f"{cascade.model}.at", float("-inf"))
            if now_s - float(looked) < 1.0:
                continue
            cut = crop(np.asarray(frame.data, np.uint8), track.box, cascade.margin)
            if min(cut.shape[:2]) < cascade.min_size:
                continue
            self._watch(second.digest)
            try:
                results, milliseconds = timed(second, cut)
                found = findings_of(results, second.kind)
            except (*MODEL_ERRORS, BrokenOutput) as error:
                _raise_what_ends_the_process(error)
                second.stats.fail(f"{type(error).__name__}: {error}")
                continue
            finally:
                self._watch("")
            second.stats.add(milliseconds, found.scores)
            track.attributes[f"{cascade.model}.at"] = now_s
            best = max((*found.boxes, *found.labels), key=lambda one: one.score, default=None)
            if best is not None:
                track.attributes[cascade.model] = best.label
                track.attributes[f"{cascade.model}.score"] = round(best.score, 4)

    def _report_track(
        self, track: Track, phase: str, zones: list[str], frame: Frame, loaded: Loaded, size: tuple[int, int]
    ) -> None:
        self.events += 1
        data: dict[str, Any] = {
            "phase": phase,
            "kind": self.kind,
            "track_id": track.id,
            "label": track.label,
            "class_id": track.class_id,
            "score": round(track.score, 4),
            "best_score": round(track.best_score, 4),
            "box": [round(value, 2) for value in track.box] if track.box else None,
            "zones": zones,
            "started_at": timestamp(track.started_wall_ns),
            "duration_s": round(track.last_s - track.started_s, 3),
            "frame": _frame(frame, size),
            "model": loaded.reference(),
            "attributes": {key: value for key, value in track.attributes.items() if not key.endswith(".at")},
        }
        if phase == "new" and self._media is not None and frame.kind is Kind.PICTURE:
            picture = np.asarray(frame.data, np.uint8)
            snapshot, clip = self._media.event(frame.number, picture, frame.wall_ns, frame.monotonic_ns / 1e9)
            data["snapshot"] = snapshot
            if clip:
                data["attributes"] |= {"clip": clip}
        self._emit(data, phase != "update")

    def _fire(
        self, firing: Firing, frame: Frame, loaded: Loaded, size: tuple[int, int], now_s: float
    ) -> None:
        self.events += 1
        began_ns = frame.wall_ns - round((now_s - firing.started_s) * 1e9)
        data = {
            "phase": firing.phase,
            "kind": "rule",
            "rule": firing.rule,
            "track_id": firing.key,
            "label": firing.label,
            "class_id": firing.track.class_id if firing.track else -1,
            "score": round(firing.score, 4),
            "box": [round(v, 2) for v in firing.track.box] if firing.track and firing.track.box else None,
            "zones": [firing.zone] if firing.zone else [],
            "value": round(firing.value, 3),
            "started_at": timestamp(began_ns),
            "duration_s": round(max(0.0, now_s - firing.started_s), 3),
            "frame": _frame(frame, size),
            "model": loaded.reference(),
            "attributes": firing.attributes | ({"track": firing.track.id} if firing.track else {}),
        }
        self._emit(data, firing.phase != "update")

    def finish(self) -> None:
        """End every open track and rule: the stream is over."""
        if self._last is None:
            return
        frame, loaded, size = self._last
        if loaded is None:
            return
        for track in self._tracker.finish():
            self._report_track(track, "end", [], frame, loaded, size)
        now_s = frame.monotonic_ns / 1e9
        for firing in self._rules.finish(now_s):
            self._fire(firing, frame, loaded, size, now_s)
        self.tracks = []

    def overlay(self) -> dict[str, Any]:
        """Return what to draw on the last processed frame."""
        total = self.stages["total"].summary()
        tracks = [
            {
                "id": track.id.rpartition("-")[2],
                "label": track.label,
                "class_id": track.class_id,
                "score": track.score,
                "box": track.box,
            }
            for track in self._shown
        ]
        return {"tracks": tracks, "text": f"{self.name}  {total.p50_ms:.1f} ms" if total else self.name}

    def report(self) -> PipelineCounters:
        """Return the counters and latencies."""
        latency = {stage: window.summary() for stage, window in self.stages.items()}
        return PipelineCounters(
            gated=self.gated,
            events=self.events,
            errors=self.errors,
            message=self.message,
            comparison=self._comparison.report() if self._comparison else None,
            latency={stage: value for stage, value in latency.items() if value},
        )


class SoundFeed:
    """Feeds chunks of sound to the running model; after a swap, the new model gets the last window again."""

    def __init__(self) -> None:
        self._model: Loaded | None = None
        self._listener: SoundStream | None = None
        self._recent = np.zeros(0, np.float32)

    def forget(self) -> None:
        """Begin anew: what comes next does not follow on what was heard."""
        self._model = self._listener = None
        self._recent = np.zeros(0, np.float32)

    def push(self, frame: Frame, loaded: Loaded, session: Session | None) -> list[Result] | None:
        """Take a chunk; returns results when it completes a window, else `None`.

        Args:
            frame: the chunk.
            loaded: the running model.
            session: its session, if it has states.
        """
        runs = session or loaded.model
        chunk = np.asarray(np.mean(frame.data, axis=1), np.float32)
        card = loaded.card
        if card is None or card.input.kind != "audio":
            return runs.predict(chunk)
        if loaded is not self._model or self._listener is None:
            self._model, self._listener = loaded, runs.listen()
            # One sample less than a window: the new model must not repeat the old one's decision.
            self._listener.push(self._recent[-(card.input.window_samples - 1) :])
        self._recent = np.concatenate([self._recent, chunk])[-card.input.window_samples :]
        return self._listener.push(chunk)


def crop(
    picture: NDArray[np.uint8], box: tuple[float, float, float, float], margin: float
) -> NDArray[np.uint8]:
    """Crop a box, enlarged by a share of its size and clipped to the picture."""
    height, width = picture.shape[:2]
    across, down = (box[2] - box[0]) * margin, (box[3] - box[1]) * margin
    left, right = max(0, int(box[0] - across)), min(width, int(box[2] + across) + 1)
    top, bottom = max(0, int(box[1] - down)), min(height, int(box[3] + down) + 1)
    return np.ascontiguousarray(picture[top:bottom, left:right])


def timestamp(wall_ns: int) -> str:
    """Return Unix nanoseconds as RFC 3339 in UTC."""
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat(timespec="microseconds")


def _frame(frame: Frame, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "number": frame.number, "width": size[0], "height": size[1], "captured_at": timestamp(frame.wall_ns)
    }  # fmt: skip
