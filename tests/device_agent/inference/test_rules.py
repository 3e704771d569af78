"""Zones and rules on tracks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgec.device_agent.config.rules import Rule
from edgec.device_agent.inference.rules import RuleBook, crossing, inside
from edgec.device_agent.inference.tracker import Track


def box(left: float, top: float = 0.0, size: float = 20.0) -> tuple[float, float, float, float]:
    return (left, top, left + size, top + size)


def track(name: str, left: float, top: float = 0.0, score: float = 0.9) -> Track:
    return Track(name, "person", 0, score, box(left, top), 0.0, 0, 0.0, score, 3, True)


@given(st.floats(0, 1), st.floats(0, 1))
def test_inside_a_square(across: float, down: float) -> None:
    square = [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)]
    if 0.26 < across < 0.74 and 0.26 < down < 0.74:
        assert inside((across, down), square)
    if not (0.24 < across < 0.76 and 0.24 < down < 0.76):
        assert not inside((across, down), square)


def test_crossings_have_a_side() -> None:
    line = ((0.0, 0.5), (1.0, 0.5))
    assert crossing((0.5, 0.6), (0.5, 0.4), line) == "in"
    assert crossing((0.5, 0.4), (0.5, 0.6), line) == "out"
    assert crossing((0.5, 0.6), (0.5, 0.7), line) is None
    assert crossing((1.5, 0.6), (1.5, 0.4), line) is None


def fire(rule: Rule, steps: list[list[Track]], zone: str = "z") -> list[tuple[str, float]]:
    book = RuleBook([rule], "r-")
    found = []
    for number, tracks in enumerate(steps):
        zones = {one.id: [zone] for one in tracks}
        found += [(f.phase, f.value) for f in book.update(tracks, zones, float(number), (100.0, 100.0))]
    return found + [(f.phase, f.value) for f in book.finish(float(len(steps)))]


def test_every_kind_of_rule() -> None:
    one, two = track("1", 0), track("2", 50)
    assert fire(Rule(name="p", kind="presence", zone="z"), [[], [one], [one], []]) == [("new", 1), ("end", 0)]
    assert fire(Rule(name="d", kind="dwell", zone="z", seconds=2), [[one]] * 4 + [[]]) == [
        ("new", 2),
        ("end", 4),
    ]
    assert fire(Rule(name="d", kind="dwell", zone="z", seconds=2), [[one], [], [one], []]) == []
    assert fire(Rule(name="c", kind="count", at_least=2), [[one], [one, two], [one]]) == [
        ("new", 2),
        ("end", 1),
    ]
    low, high = track("1", 0, score=0.2), track("1", 0, score=0.9)
    score = Rule(name="s", kind="score", score=0.5, n=2, m=3)
    assert fire(score, [[high], [low], [high], [low], [low], [low]]) == [("new", 2), ("end", 0)]
    line = Rule(name="l", kind="line", line=((0.0, 0.5), (1.0, 0.5)))
    assert fire(line, [[track("1", 40, 10)], [track("1", 40, 50)], [track("1", 40, 10)]]) == [
        ("new", 1),
        ("new", 1),
    ]
