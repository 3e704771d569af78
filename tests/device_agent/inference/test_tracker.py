"""Tracks: stable ids through crossings, weak frames and flickers, with and without boxes."""

from __future__ import annotations

from edgec.device_agent.config.rules import Tracker as Settings
from edgec.device_agent.inference.tracker import Seen, Tracker


def box(left: float, top: float = 0.0, size: float = 20.0) -> tuple[float, float, float, float]:
    return (left, top, left + size, top + size)


def test_tracks_keep_their_ids_through_crossings_and_weak_frames() -> None:
    tracker = Tracker(Settings(confirm=2, lost_s=0.5), "")
    ids: dict[int, set[str]] = {0: set(), 1: set()}
    for step in range(40):
        now = step * 0.1
        seen = [
            Seen("a", 0, 0.9 if step % 3 else 0.3, box(step * 3.0)),
            Seen("b", 1, 0.9, box(120 - step * 3.0)),
        ]
        tracker.update(seen, now, 0)
        for track in tracker.confirmed(now):
            ids[track.class_id].add(track.id)
    assert [len(one) for one in ids.values()] == [1, 1]
    change = tracker.update([], 10.0, 0)
    assert len(change.ended) == 2
    assert not tracker.tracks


def test_a_flicker_is_no_track() -> None:
    tracker = Tracker(Settings(confirm=3), "")
    assert not tracker.update([Seen("a", 0, 0.9, box(0))], 0.0, 0).new
    assert not tracker.update([], 0.1, 0).new
    assert not tracker.tracks


def test_boxes_and_labels_have_tracks_and_numbers_of_their_own() -> None:
    tracker = Tracker(Settings(confirm=1, lost_s=0.5), "door-")
    change = tracker.update([Seen("red", 0, 0.9, box(0)), Seen("noise", 4, 0.8, None)], 0.0, 0)
    assert [track.id for track in change.new] == ["door-t1", "door-l1"]
    change = tracker.update([Seen("red", 0, 0.7, box(2)), Seen("noise", 4, 0.9, None)], 0.1, 0)
    assert not change.new
    assert [(track.id, track.hits, track.best_score) for track in tracker.confirmed(0.1)] == [
        ("door-t1", 2, 0.9),
        ("door-l1", 2, 0.9),
    ]
    assert [track.id for track in tracker.update([], 1.0, 0).ended] == ["door-t1", "door-l1"]


def test_a_label_is_followed_by_its_name_whatever_its_score() -> None:
    tracker = Tracker(Settings(confirm=1, lost_s=5.0, high=0.6), "")
    tracker.update([Seen("noise", 4, 0.3, None)], 0.0, 0)
    change = tracker.update([Seen("speech", 5, 0.3, None)], 0.1, 0)
    assert [(track.id, track.label) for track in change.new] == [("l2", "speech")]
    assert [track.label for track in tracker.tracks] == ["noise", "speech"]
