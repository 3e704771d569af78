"""Captures for retraining, in the inference process: selected, masked, encoded and written to the spool.

The spool is a folder. A capture is `<id>.jpg` and then `<id>.json`, each renamed into place, so that one with both
files is complete. The supervisor uploads and deletes it (`edgec.device_agent.cloud.capture_uplink`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgec.device_agent.config.settings import CaptureRules, StreamSection
from edgec.device_agent.errors import StateError
from edgec.device_agent.inference.findings import findings_of
from edgec.device_agent.inference.masks import blur, blur_box
from edgec.device_agent.inference.media import MediaRing
from edgec.device_agent.inference.slots import MODEL_ERRORS, Loaded, timed
from edgec.device_agent.inference.tracker import Seen
from edgec.device_agent.process.ring import Frame
from edgec.device_agent.process.space import Reserve
from edgec.device_agent.process.statefile import StateFile, write_durably
from edgec.protocol.captures import MAX_CAPTURE_BYTES, MAX_PREDICTIONS, CaptureMeta, CaptureReason, Prediction
from edgec.protocol.captures import SecondOpinion as Second
from edgec.runtime.errors import BrokenOutput

_DAY_S = 86400.0
_FACE_MARGIN = 0.25
Picture = NDArray[np.uint8]
Answer = Callable[[str, str], None]
"""Takes a capture's id and why it could not be stored, one of them empty."""


class Spool:
    """The bounded folder of captures that wait for upload, and the quota.

    The quota is a token bucket that holds a day's worth and refills with the agent's running time: neither a clock
    jump nor a restart refills it.
    """

    def __init__(self, folder: Path, max_bytes: int, per_day: int, reserve: Reserve | None = None) -> None:
        self._reserve = reserve
        self.folder, self._max_bytes, self._per_day = folder, max_bytes, per_day
        self.kept = self.refused = 0
        self.problem = ""
        self._file = StateFile(folder.with_name(folder.name + ".quota.json"))
        level = self._file.load().data.get("level", per_day)
        self._level = min(float(per_day), float(level))
        self._filled = time.monotonic()

    def allow(self) -> bool:
        """Take one from the quota; `False` when it is used up."""
        now = time.monotonic()
        self._level = min(float(self._per_day), self._level + (now - self._filled) * self._per_day / _DAY_S)
        self._filled = now
        if self._level < 1.0:
            self.refused += 1
            return False
        self._level -= 1.0
        return True

    def refund(self) -> None:
        """Return one to the quota: the capture was not stored after all."""
        self._level = min(float(self._per_day), self._level + 1.0)

    def store(self, meta: CaptureMeta, jpeg: bytes) -> None:
        """Store a capture.

        Raises:
            StateError: the spool is full, or cannot be written.
        """
        body = meta.encode()
        waiting = sum(path.stat().st_size for path in self.folder.glob("*.*")) if self.folder.is_dir() else 0
        if waiting + len(jpeg) + len(body) > self._max_bytes or len(jpeg) > MAX_CAPTURE_BYTES:
            self.refused += 1
            raise StateError(f"{waiting} bytes of captures wait already: the limit is {self._max_bytes}")
        if self._reserve is not None and self._reserve.left() < len(jpeg) + len(body):
            self.refused += 1
            raise StateError(self._reserve.refusal())
        write_durably(self.folder / f"{meta.id}.jpg", jpeg, 0o600)
        try:
            write_durably(self.folder / f"{meta.id}.json", body, 0o600)
        except StateError:
            (self.folder / f"{meta.id}.jpg").unlink(missing_ok=True)
            raise
        self._file.save({"level": round(self._level, 3)})
        self.kept += 1


@dataclass
class CaptureRequest:
    """Captures that a job requested."""

    left: int
    interval_s: float
    job_id: str | None
    answer: Callable[[list[str], str], None]
    due_s: float = 0.0
    ids: list[str] = field(default_factory=list)


@dataclass
class ProcessedFrame:
    """One processed frame and what each model found in it."""

    frame: Frame
    loaded: Loaded
    found: list[Seen]
    other: Loaded | None = None
    other_found: list[Seen] = field(default_factory=list)
    disagreed: bool = False
    spectrogram: Callable[[], Picture] | None = None
    """Draws a frame of sound, which has no picture of its own."""

    @property
    def picture(self) -> Picture:
        """A copy of the frame as a picture."""
        return np.array(self.frame.data if self.spectrogram is None else self.spectrogram(), np.uint8)


class StreamCaptures:
    """Selects frames of one stream; none leaves unmasked."""

    def __init__(
        self,
        name: str,
        settings: StreamSection,
        device: str,
        mark: str,
        spool: Spool,
        writer: MediaRing,
        faces: str | None,
        watch: Callable[[str], None],
        on_kept: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_kept = on_kept
        self._name, self._settings, self._device, self._mark = name, settings, device, mark
        self._spool, self._writer, self._faces, self._watch = spool, writer, faces, watch
        self._rules = settings.capture or CaptureRules()
        self._next_s = 0.0
        self._count = 0
        self._requests: list[CaptureRequest] = []
        self._random = random.Random()

    def change(self, settings: StreamSection) -> None:
        """Select by other rules from now on."""
        self._settings = settings
        self._rules = settings.capture or CaptureRules()

    def request(self, request: CaptureRequest) -> None:
        """Capture the next frames, regardless of the rules."""
        self._requests.append(request)

    def close(self) -> None:
        """End open requests with the captures they have: the stream is over."""
        for request in self._requests:
            request.answer(request.ids, "the stream has ended")
        self._requests.clear()

    def consider(self, processed: ProcessedFrame, slots: Callable[[str], Loaded | None]) -> None:
        """Capture a processed frame if a rule or a request selects it."""
        now = time.monotonic()
        request = next((one for one in self._requests if now >= one.due_s), None)
        if request is not None:
            request.due_s = now + request.interval_s
            request.left -= 1
            if request.left == 0:
                self._requests.remove(request)
            self._take(processed, CaptureReason.REQUEST, slots, request)
            return
        if now < self._next_s or processed.spectrogram is not None:
            return  # Rules select pictures to train with; a sound is drawn for people who ask.
        reason = self._reason(processed)
        if reason is not None:
            self._next_s = now + self._rules.min_interval_s
            if self._spool.allow():
                self._take(processed, reason, slots, None)

    def _reason(self, processed: ProcessedFrame) -> CaptureReason | None:
        rules = self._rules
        if rules.disagreement and processed.disagreed:
            return CaptureReason.DISAGREEMENT
        if rules.low_confidence is not None:
            low, high = rules.low_confidence
            if any(low <= one.score <= high for one in processed.found):
                return CaptureReason.LOW_CONFIDENCE
        if rules.random_share and self._random.random() < rules.random_share:
            return CaptureReason.RANDOM
        return None

    def _take(
        self,
        processed: ProcessedFrame,
        reason: CaptureReason,
        slots: Callable[[str], Loaded | None],
        request: CaptureRequest | None,
    ) -> None:
        last = request is not None and request.left == 0

        def kept(capture_id: str, problem: str) -> None:
            if request is None and problem:
                self._spool.refund()
            elif request is not None:
                request.ids += [capture_id] if capture_id else []
                if last or problem:
                    if request in self._requests:
                        self._requests.remove(request)
                    request.answer(request.ids, problem)

        picture = processed.picture
        try:
            masked = [] if processed.spectrogram is not None else self._mask(picture, slots)
        except (*MODEL_ERRORS, BrokenOutput) as error:
            # A frame that cannot be searched for faces must not leave the device.
            self._spool.refused += 1
            kept("", f"faces could not be masked: {type(error).__name__}: {error}"[:300])
            return
        self._count += 1
        meta = self._meta(processed, reason, request, picture, masked)

        def write() -> None:
            ok, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self._rules.quality])
            try:
                if not ok:
                    raise StateError("the picture cannot be encoded")
                self._spool.store(meta, jpeg.tobytes())
            except (StateError, OSError) as error:
                self._spool.problem = str(error)
                kept("", str(error))
                return
            self._spool.problem = ""
            self._on_kept()
            kept(meta.id, "")

        if not self._writer.submit(write):
            self._spool.refused += 1
            kept("", "the picture writer is overloaded")

    def _meta(
        self,
        processed: ProcessedFrame,
        reason: CaptureReason,
        request: CaptureRequest | None,
        picture: Picture,
        masked: list[str],
    ) -> CaptureMeta:
        height, width = picture.shape[:2]
        loaded, other = processed.loaded, processed.other
        return CaptureMeta(
            id=f"{self._name[:32]}-{self._mark}-{self._count}",
            device=self._device,
            stream=self._name,
            model=loaded.name,
            version=loaded.version,
            manifest_digest=loaded.digest or None,
            time=datetime.fromtimestamp(processed.frame.wall_ns / 1e9, UTC),
            reason=reason,
            predictions=predictions_of(processed.found),
            other=Second(
                model=other.name, version=other.version, predictions=predictions_of(processed.other_found)
            )
            if other is not None
            else None,
            job_id=request.job_id if request else None,
            masked=masked,
            width=width,
            height=height,
        )

    def _mask(self, picture: Picture, slots: Callable[[str], Loaded | None]) -> list[str]:
        """Blur zones and faces in place; returns the names of what was blurred.

        Raises:
            LookupError: the configured face model is not loaded.
        """
        masked: list[str] = []
        if self._faces is not None:
            model = slots(self._faces)
            if model is None:
                raise LookupError(f"the model {self._faces} is not loaded")
            self._watch(model.digest)
            try:
                results, _ = timed(model, picture)
            finally:
                self._watch("")
            for face in findings_of(results, model.kind).boxes:
                if face.box is not None:
                    blur_box(picture, face.box, _FACE_MARGIN)
                    masked.append("face")
        blur(picture, self._settings.masks)
        return [zone.name for zone in self._settings.masks] + masked


def predictions_of(seen: Iterable[Seen]) -> list[Prediction]:
    """Return results as the capture's predictions, best first."""
    best = sorted(seen, key=lambda one: -one.score)[:MAX_PREDICTIONS]
    return [
        Prediction(
            label=one.label[:200],
            class_id=one.class_id,
            score=round(min(1.0, max(0.0, one.score)), 4),
            box=None
            if one.box is None
            else (round(one.box[0], 2), round(one.box[1], 2), round(one.box[2], 2), round(one.box[3], 2)),
        )
        for one in best
    ]
