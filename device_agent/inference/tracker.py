"""Stable ids: detections of consecutive frames joined into tracks.

After ByteTrack (Zhang et al., ECCV 2022): confident detections are matched first, the weak ones then continue
tracks that are still open, and never begin one. Boxes move on with a smoothed velocity between frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgec.device_agent.config.rules import Tracker as Settings

Box = tuple[float, float, float, float]


@dataclass(slots=True)
class Seen:
    """One detection of one frame; ``box`` is left, top, right, bottom in pixels."""

    label: str
    class_id: int
    score: float
    box: Box | None
    attributes: dict[str, float | str | bool] = field(default_factory=dict)


@dataclass(slots=True)
class Track:
    """One thing over time; times are seconds of the stream's own monotonic clock."""

    id: str
    label: str
    class_id: int
    score: float
    box: Box | None
    started_s: float
    started_wall_ns: int
    last_s: float
    best_score: float = 0.0
    hits: int = 1
    confirmed: bool = False
    velocity: tuple[float, float] = (0.0, 0.0)
    attributes: dict[str, float | str | bool] = field(default_factory=dict)

    @property
    def foot(self) -> tuple[float, float]:
        """Where it stands: the middle of the box's lower edge."""
        if self.box is None:
            return (0.0, 0.0)
        left, _, right, bottom = self.box
        return ((left + right) / 2, bottom)

    def predicted(self, now_s: float) -> Box:
        """The box moved on to ``now_s``."""
        left, top, right, bottom = self.box or (0.0, 0.0, 0.0, 0.0)
        gap = min(now_s - self.last_s, 1.0)
        across, down = self.velocity[0] * gap, self.velocity[1] * gap
        return (left + across, top + down, right + across, bottom + down)


@dataclass(slots=True)
class Change:
    """What a frame did to the tracks."""

    new: list[Track] = field(default_factory=list)
    ended: list[Track] = field(default_factory=list)


class BoxTracker:
    """Tracks boxes of one stream; ids are ``prefix`` and a number that only grows."""

    def __init__(self, settings: Settings, prefix: str) -> None:
        self._settings = settings
        self._prefix = prefix
        self._count = 0
        self.tracks: list[Track] = []

    def update(self, seen: Sequence[Seen], now_s: float, wall_ns: int) -> Change:
        """Take one frame's detections."""
        settings, change = self._settings, Change()
        strong = [one for one in seen if one.box is not None and one.score >= settings.high]
        weak = [one for one in seen if one.box is not None and one.score < settings.high]
        free = list(self.tracks)
        left_over = []
        for one, track in self._match(strong, free, now_s):
            if track is None:
                left_over.append(one)
            else:
                self._continue(track, one, now_s, change)
                free.remove(track)
        for one, track in self._match(weak, free, now_s):
            if track is not None:
                self._continue(track, one, now_s, change)
                free.remove(track)
        for one in left_over:
            self._begin(one, now_s, wall_ns, change)
        for track in free:
            # A track that was never confirmed ends at its first miss: it was a flicker.
            if not track.confirmed or now_s - track.last_s > settings.lost_s:
                self.tracks.remove(track)
                if track.confirmed:
                    change.ended.append(track)
        return change

    def finish(self) -> list[Track]:
        """End every track; returns the confirmed ones."""
        ended = [track for track in self.tracks if track.confirmed]
        self.tracks = []
        return ended

    def confirmed(self, now_s: float) -> list[Track]:
        """The tracks that were matched in the frame of ``now_s``."""
        return [track for track in self.tracks if track.confirmed and track.last_s == now_s]

    def _match(
        self, seen: Sequence[Seen], tracks: Sequence[Track], now_s: float
    ) -> list[tuple[Seen, Track | None]]:
        """Pair detections with tracks of their class, largest overlap first."""
        partner: dict[int, Track] = {}
        if seen and tracks:
            boxes = [track.predicted(now_s) for track in tracks]
            pairs = []
            for row, one in enumerate(seen):
                for column, track in enumerate(tracks):
                    if one.class_id == track.class_id and one.box is not None:
                        overlap = overlap_of(one.box, boxes[column])
                        if overlap >= self._settings.iou:
                            pairs.append((-overlap, row, column))
            taken: set[int] = set()
            for _, row, column in sorted(pairs):
                if row not in partner and column not in taken:
                    partner[row] = tracks[column]
                    taken.add(column)
        return [(one, partner.get(index)) for index, one in enumerate(seen)]

    def _continue(self, track: Track, one: Seen, now_s: float, change: Change) -> None:
        gap = now_s - track.last_s
        if gap > 0 and track.box is not None and one.box is not None:
            shift = [
                (one.box[i] + one.box[i + 2] - track.box[i] - track.box[i + 2]) / 2 / gap for i in (0, 1)
            ]
            keep = 0.0 if track.hits == 1 else 0.6
            track.velocity = (
                keep * track.velocity[0] + (1 - keep) * shift[0],
                keep * track.velocity[1] + (1 - keep) * shift[1],
            )
        track.box, track.score, track.last_s = one.box, one.score, now_s
        track.best_score = max(track.best_score, one.score)
        track.attributes.update(one.attributes)
        track.hits += 1
        self._confirm(track, change)

    def _begin(self, one: Seen, now_s: float, wall_ns: int, change: Change) -> None:
        self._count += 1
        track = Track(
            f"{self._prefix}{self._count}", one.label, one.class_id, one.score, one.box, now_s, wall_ns,
            now_s, best_score=one.score, attributes=dict(one.attributes),
        )  # fmt: skip
        self.tracks.append(track)
        self._confirm(track, change)

    def _confirm(self, track: Track, change: Change) -> None:
        if not track.confirmed and track.hits >= self._settings.confirm:
            track.confirmed = True
            change.new.append(track)


class LabelTracker:
    """Tracks what has no box (classes, keywords, sounds): on after ``confirm`` hits, off after ``lost_s``."""

    def __init__(self, settings: Settings, prefix: str) -> None:
        self._settings = settings
        self._prefix = prefix
        self._count = 0
        self.tracks: list[Track] = []

    def update(self, seen: Sequence[Seen], now_s: float, wall_ns: int) -> Change:
        """Take one frame's labels."""
        change = Change()
        open_tracks = {track.label: track for track in self.tracks}
        for one in seen:
            track = open_tracks.pop(one.label, None)
            if track is None:
                self._count += 1
                track = Track(
                    f"{self._prefix}{self._count}", one.label, one.class_id, one.score, None, now_s, wall_ns,
                    now_s, best_score=one.score, attributes=dict(one.attributes),
                )  # fmt: skip
                self.tracks.append(track)
            else:
                track.hits += 1
                track.score, track.last_s = one.score, now_s
                track.best_score = max(track.best_score, one.score)
            if not track.confirmed and track.hits >= self._settings.confirm:
                track.confirmed = True
                change.new.append(track)
        for track in open_tracks.values():
            if not track.confirmed or now_s - track.last_s > self._settings.lost_s:
                self.tracks.remove(track)
                if track.confirmed:
                    change.ended.append(track)
        return change

    def finish(self) -> list[Track]:
        """End every track; returns the confirmed ones."""
        ended = [track for track in self.tracks if track.confirmed]
        self.tracks = []
        return ended

    def confirmed(self, now_s: float) -> list[Track]:
        """The tracks that were heard or seen in the frame of ``now_s``."""
        return [track for track in self.tracks if track.confirmed and track.last_s == now_s]


def overlap_of(left: Box, right: Box) -> float:
    """Intersection over union of two boxes; plain numbers, because arrays of a few boxes cost more."""
    across = min(left[2], right[2]) - max(left[0], right[0])
    down = min(left[3], right[3]) - max(left[1], right[1])
    if across <= 0 or down <= 0:
        return 0.0
    common = across * down
    areas = (left[2] - left[0]) * (left[3] - left[1]) + (right[2] - right[0]) * (right[3] - right[1])
    return common / (areas - common)
