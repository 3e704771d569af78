"""Work in portions that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def in_portions(items: Iterable[Item], bytes_of: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Items in order, in lists that together stay within `most` bytes; one that is larger is alone."""
    portion: list[Item] = []
    total = 0
    for item in items:
        size = bytes_of(item)
        if portion and total + size > most:
            yield portion
            portion, total = [], 0
        portion.append(item)
        total += size
    if portion:
        yield portion
