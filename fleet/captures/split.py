"""Which captures are held out for validation: by device and time, so that no picture is on both sides.

Neighbouring frames of a camera are nearly the same picture, so all captures of a stream within an hour go to one side,
and so do bursts across the hour and pictures that are equal byte for byte. A hash of device, stream and hour decides,
so that a capture stays on its side as others come.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

BLOCK_S = 3600.0
BURST_S = 5.0
"""Captures of a stream that follow each other within this time belong together."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Where and when a capture was taken; `digest` is that of its picture, empty if it is unknown."""

    number: int
    device: str = ""
    stream: str = ""
    at: float = 0.0
    digest: str = ""


def held_out(captures: Sequence[Taken], percent: float) -> frozenset[int]:
    """The numbers of the captures that are held out: about `percent` of all, with enough hours and streams."""
    if percent <= 0 or not captures:
        return frozenset()
    groups = _groups(captures)
    ranks = {key: _rank(key) for key in groups}
    chosen = {key for key, rank in ranks.items() if rank < percent}
    if len(groups) == 1:
        return _latest(captures, percent)
    if not chosen:
        chosen = {min(ranks, key=lambda key: (ranks[key], key))}
    elif len(chosen) == len(groups):
        chosen.discard(max(ranks, key=lambda key: (ranks[key], key)))
    return frozenset(one.number for key in chosen for one in groups[key])


def _rank(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 10_000 / 100


def _groups(captures: Sequence[Taken]) -> dict[str, list[Taken]]:
    """Captures that must stay together, by the name of the first one's hour."""
    blocks: dict[str, str] = {}
    parent: dict[str, str] = {}
    key_of: dict[int, str] = {}
    last: dict[tuple[str, str], tuple[float, str]] = {}
    for one in sorted(captures, key=lambda item: (item.at, item.number)):
        place = one.device, one.stream
        at, key = last.get(place, (float("-inf"), ""))
        if one.at - at > BURST_S:
            key = "/".join((one.device, one.stream, str(int(one.at // BLOCK_S))))
        last[place] = one.at, key
        key_of[one.number] = key
        parent.setdefault(key, key)
    for one in sorted(captures, key=lambda item: item.number):
        if one.digest:
            first = blocks.setdefault(one.digest, key_of[one.number])
            older, newer = _root(parent, first), _root(parent, key_of[one.number])
            parent[newer] = older
    groups: dict[str, list[Taken]] = defaultdict(list)
    for one in captures:
        groups[_root(parent, key_of[one.number])].append(one)
    return groups


def _root(parent: dict[str, str], key: str) -> str:
    while parent[key] != key:
        key = parent[key]
    return key


def _latest(captures: Sequence[Taken], percent: float) -> frozenset[int]:
    """The latest pictures of a single hour, without those that belong to a burst or a picture before them."""
    ordered = sorted(captures, key=lambda item: (item.at, item.number))
    cut = len(ordered) - max(round(len(ordered) * percent / 100), 1)
    while 0 < cut < len(ordered) and ordered[cut].at - ordered[cut - 1].at <= BURST_S:
        cut += 1
    if cut <= 0:
        return frozenset()
    before = {one.digest for one in ordered[:cut]}
    return frozenset(one.number for one in ordered[cut:] if not one.digest or one.digest not in before)
