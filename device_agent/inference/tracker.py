"""Stable ids: detections of consecutive frames joined into tracks.

After ByteTrack (Zhang et al., ECCV 2022): confident detections are matched first, the weak ones then continue
tracks that are still open, and never begin one. Between frames a box moves on with a smoothed velocity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgec.device_agent.config.rules import Tracker as Settings

Box = tuple[float, float, float, float]


@dataclass(slots=True)
class Seen:
    """One detection of one frame; `box` is left, top, right, bottom in pixels."""

    label: str
    class_id: int
    score: float
    box: Box | None
    attributes: dict[str, float | str | bool] = field(default_factory=dict)


@dataclass(slots=True)
class Track:
    """One object over time; times are seconds of the stream's monotonic clock."""

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
        """The foot point: the middle of the box's lower edge."""
        if self.box is None:
            return (0.0, 0.0)
        left, _, right, bottom = self.box
        return ((left + right) / 2, bottom)

    def predicted(self, now_s: float) -> Box:
        """Return the box, extrapolated to `now_s`."""
        left, top, right, bottom = self.box or (0.0, 0.0, 0.0, 0.0)
        gap = min(now_s - self.last_s, 1.0)
        across, down = self.velocity[0] * gap, self.velocity[1] * gap
        return (left + across, top + down, right + across, bottom + down)


@dataclass(slots=True)
class Change:
    """Tracks that a frame confirmed or ended."""

    new: list[Track] = field(default_factory=list)
    ended: list[Track] = field(default_factory=list)


class Tracker:
    """Tracks what one stream's models find.

    Detections with a box are joined by class and overlap; those without one (classes, keywords, sounds) by label: on
    after `confirm` hits, off after `lost_s`. Ids are `prefix`, `t` or `l`, and a number that only grows.
    """

    def __init__(self, settings: Settings, prefix: str) -> None:
        self._settings = settings
        self._prefix = prefix
        self._counts = {"t": 0, "l": 0}
        self.tracks: list[Track] = []

    def update(self, seen: Sequence[Seen], now_s: float, wall_ns: int) -> Change:
        """Take one frame's detections."""
        change = Change()
        boxed = [track for track in self.tracks if track.box is not None]
        named = [track for track in self.tracks if track.box is None]
        free = self._update_boxes([one for one in seen if one.box is not None], boxed, now_s, wall_ns, change)
        free += self._update_labels([one for one in seen if one.box is None], named, now_s, wall_ns, change)
        for track in free:
            # An unconfirmed track ends at its first miss: it was a flicker.
            if not track.confirmed or now_s - track.last_s > self._settings.lost_s:
                self.tracks.remove(track)
                if track.confirmed:
                    change.ended.append(track)
        return change

    def finish(self) -> list[Track]:
        """End every track; returns the confirmed ones."""
        ended = [track for track in self._in_order() if track.confirmed]
        self.tracks = []
        return ended

    def confirmed(self, now_s: float) -> list[Track]:
        """Return the tracks that were matched in the frame of `now_s`."""
        return [track for track in self._in_order() if track.confirmed and track.last_s == now_s]

    def _in_order(self) -> list[Track]:
        return sorted(self.tracks, key=lambda track: track.box is None)

    def _update_boxes(
        self, seen: Sequence[Seen], tracks: Sequence[Track], now_s: float, wall_ns: int, change: Change
    ) -> list[Track]:
        """Continue or begin tracks with a box; returns those that nothing continued."""
        free, left_over = list(tracks), []
        strong = [one for one in seen if one.score >= self._settings.high]
        weak = [one for one in seen if one.score < self._settings.high]
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
        return free

    def _update_labels(
        self, seen: Sequence[Seen], tracks: Sequence[Track], now_s: float, wall_ns: int, change: Change
    ) -> list[Track]:
        """Continue or begin tracks without a box; returns those that nothing continued."""
        free = {track.label: track for track in tracks}
        for one in seen:
            track = free.pop(one.label, None)
            if track is None:
                self._begin(one, now_s, wall_ns, change)
            else:
                self._continue(track, one, now_s, change)
        return list(free.values())

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
            inertia = 0.0 if track.hits == 1 else 0.6
            track.velocity = (
                inertia * track.velocity[0] + (1 - inertia) * shift[0],
                inertia * track.velocity[1] + (1 - inertia) * shift[1],
            )
        if one.box is not None:
            track.attributes.update(one.attributes)
        track.box, track.score, track.last_s = one.box, one.score, now_s
        track.best_score = max(track.best_score, one.score)
        track.hits += 1
        self._confirm(track, change)

    def _begin(self, one: Seen, now_s: float, wall_ns: int, change: Change) -> None:
        letter = "l" if one.box is None else "t"
        self._counts[letter] += 1
        track = Track(
            f"{self._prefix}{letter}{self._counts[letter]}", one.label, one.class_id, one.score, one.box, now_s,
            wall_ns, now_s, best_score=one.score, attributes=dict(one.attributes),
        )  # fmt: skip
        self.tracks.append(track)
        self._confirm(track, change)

    def _confirm(self, track: Track, change: Change) -> None:
        if not track.confirmed and track.hits >= self._settings.confirm:
            track.confirmed = True
            change.new.append(track)


def overlap_of(left: Box, right: Box) -> float:
    """Return the intersection over union of two boxes; in plain numbers, as arrays cost more for few boxes."""
    across = min(left[2], right[2]) - max(left[0], right[0])
    down = min(left[3], right[3]) - max(left[1], right[1])
    if across <= 0 or down <= 0:
        return 0.0
    common = across * down
    areas = (left[2] - left[0]) * (left[3] - left[1]) + (right[2] - right[0]) * (right[3] - right[1])
    return common / (areas - common)
