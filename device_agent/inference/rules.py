"""Zones and rules: the behaviour of tracks, turned into events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from edgec.device_agent.config.rules import Point, Rule, Zone
from edgec.device_agent.inference.tracker import Track


@dataclass(slots=True)
class Firing:
    """A rule that begins to hold, changes or ends."""

    rule: str
    phase: Literal["new", "update", "end"]
    key: str
    """The same for `new`, `update` and `end`."""
    label: str
    score: float
    value: float
    started_s: float
    zone: str = ""
    track: Track | None = None
    attributes: dict[str, float | str | bool] = field(default_factory=dict)


def inside(point: Point, polygon: Sequence[Point]) -> bool:
    """Return whether a point lies in a polygon (even-odd rule)."""
    across, down = point
    odd = False
    previous = polygon[-1]
    for corner in polygon:
        if (corner[1] > down) != (previous[1] > down):
            edge = (previous[0] - corner[0]) * (down - corner[1]) / (previous[1] - corner[1]) + corner[0]
            odd ^= across < edge
        previous = corner
    return odd


class ZoneMap:
    """The zones of a stream, and the tracks in them."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        self._zones = zones

    def of(self, track: Track, width: int, height: int) -> list[str]:
        """Return the names of the zones that contain the track's foot point."""
        if track.box is None or not width or not height:
            return []
        foot = (track.foot[0] / width, track.foot[1] / height)
        return [zone.name for zone in self._zones if inside(foot, zone.polygon)]


class RuleBook:
    """Evaluates every rule of a stream after each frame."""

    def __init__(self, rules: Sequence[Rule], prefix: str) -> None:
        self._evaluators = [EVALUATORS[rule.kind](rule, f"{prefix}{rule.name}-") for rule in rules]

    def update(
        self, tracks: Sequence[Track], zones: dict[str, list[str]], now_s: float, size: Point
    ) -> list[Firing]:
        """Take the live tracks, the zones that contain them (by track id) and the picture's size."""
        scene = Scene(tracks, zones, now_s, size)
        return [firing for evaluator in self._evaluators for firing in evaluator.update(scene)]

    def finish(self, now_s: float) -> list[Firing]:
        """End every rule that still holds."""
        scene = Scene([], {}, now_s, (1.0, 1.0), over=True)
        return [firing for evaluator in self._evaluators for firing in evaluator.update(scene)]


@dataclass(frozen=True, slots=True)
class Scene:
    """What a rule sees of a frame.

    Attributes:
        tracks: the live tracks.
        zones: names of the zones that contain each track, by track id.
        now_s: time of the frame, in seconds of the stream's monotonic clock.
        size: width and height of the picture, in pixels.
        over: whether the stream has ended: nothing holds any longer.
    """

    tracks: Sequence[Track]
    zones: dict[str, list[str]]
    now_s: float
    size: Point
    over: bool = False


class Evaluator(ABC):
    """One rule and its open firings, by key."""

    def __init__(self, rule: Rule, prefix: str) -> None:
        self.rule = rule
        self._prefix = prefix
        self._count = 0
        self._open: dict[str, Firing] = {}

    @abstractmethod
    def update(self, scene: Scene) -> list[Firing]:
        """Return the events that begin, change or end with this frame."""

    def _matching(self, scene: Scene) -> list[Track]:
        rule = self.rule
        return [
            track for track in scene.tracks
            if (rule.labels is None or track.label in rule.labels)
            and (rule.zone is None or rule.zone in scene.zones.get(track.id, ()))
        ]  # fmt: skip

    def _begin(
        self, about: str, label: str, score: float, value: float, now_s: float, track: Track | None
    ) -> Firing:
        self._count += 1
        firing = Firing(
            self.rule.name, "new", f"{self._prefix}{self._count}", label, score, value, now_s,
            self.rule.zone or "", track,
        )  # fmt: skip
        self._open[about] = firing
        return firing

    def _change(self, about: str, value: float) -> Firing:
        first = self._open[about]
        first.value = value
        return replace(first, phase="update")

    def _end(self, about: str, value: float) -> Firing:
        return replace(self._open.pop(about), phase="end", value=value)


class _Count(Evaluator):
    """At least a number of matching tracks at once; `presence` is this with one."""

    def update(self, scene: Scene) -> list[Firing]:
        matching = self._matching(scene)
        number = len(matching)
        least = 1 if self.rule.kind == "presence" else self.rule.at_least
        holds = number >= least and not scene.over
        if "" in self._open:
            if not holds:
                return [self._end("", number)]
            return [self._change("", number)] if number != self._open[""].value else []
        if not holds:
            return []
        best = max(matching, key=lambda track: track.score)
        return [self._begin("", best.label, best.score, number, scene.now_s, best)]


class _Dwell(Evaluator):
    """A track that stays in the zone; one firing per track."""

    def __init__(self, rule: Rule, prefix: str) -> None:
        super().__init__(rule, prefix)
        self._since: dict[str, float] = {}

    def update(self, scene: Scene) -> list[Firing]:
        matching = {} if scene.over else {track.id: track for track in self._matching(scene)}
        firings = []
        for gone in [key for key in self._since if key not in matching]:
            since = self._since.pop(gone)
            if gone in self._open:
                firings.append(self._end(gone, scene.now_s - since))
        for key, track in matching.items():
            stayed = scene.now_s - self._since.setdefault(key, scene.now_s)
            if key not in self._open and stayed >= self.rule.seconds:
                firings.append(self._begin(key, track.label, track.score, stayed, scene.now_s, track))
        return firings


class _Line(Evaluator):
    """Tracks that cross a line; each crossing is one `new`, whose value is the count in that direction."""

    def __init__(self, rule: Rule, prefix: str) -> None:
        super().__init__(rule, prefix)
        self._feet: dict[str, Point] = {}
        self._crossed = {"in": 0, "out": 0}

    def update(self, scene: Scene) -> list[Firing]:
        feet, firings = {}, []
        for track in self._matching(scene):
            foot = (track.foot[0] / scene.size[0], track.foot[1] / scene.size[1])
            feet[track.id] = foot
            before = self._feet.get(track.id)
            if before and self.rule.line and (way := crossing(before, foot, self.rule.line)):
                self._crossed[way] += 1
                firing = self._begin(
                    track.id, track.label, track.score, self._crossed[way], scene.now_s, track
                )
                firing.attributes = {"direction": way, "in": self._crossed["in"], "out": self._crossed["out"]}
                self._open.clear()
                firings.append(firing)
        self._feet = feet
        return firings


class _Score(Evaluator):
    """A score that was reached in `n` of the last `m` frames."""

    def __init__(self, rule: Rule, prefix: str) -> None:
        super().__init__(rule, prefix)
        self._window: deque[bool] = deque(maxlen=rule.m)

    def update(self, scene: Scene) -> list[Firing]:
        matching = self._matching(scene)
        best = max(matching, key=lambda track: track.score, default=None)
        self._window.append(best is not None and best.score >= self.rule.score)
        hits = sum(self._window)
        if "" in self._open:
            return [self._end("", hits)] if scene.over or hits == 0 else []
        if scene.over or hits < self.rule.n or best is None:
            return []
        return [self._begin("", best.label, best.score, hits, scene.now_s, best)]


def crossing(before: Point, after: Point, line: tuple[Point, Point]) -> Literal["in", "out"] | None:
    """Return how a step crosses a line: `in` to the left of its direction, `out` to the right, else `None`."""
    start, stop = line

    def side(point: Point) -> float:
        return (stop[0] - start[0]) * (point[1] - start[1]) - (stop[1] - start[1]) * (point[0] - start[0])

    def beside(point: Point) -> float:
        return (after[0] - before[0]) * (point[1] - before[1]) - (after[1] - before[1]) * (
            point[0] - before[0]
        )

    first, second = side(before), side(after)
    if (first > 0) == (second > 0) or (beside(start) > 0) == (beside(stop) > 0):
        return None
    # Rows count downwards, so the left of a direction is the negative side.
    return "in" if second <= 0 else "out"


EVALUATORS: dict[str, type[Evaluator]] = {
    "presence": _Count, "count": _Count, "dwell": _Dwell, "line": _Line, "score": _Score,
}  # fmt: skip
