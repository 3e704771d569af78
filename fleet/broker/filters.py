"""Subscriptions of the embedded broker, found by topic without a search through all of them."""

from __future__ import annotations

from collections.abc import Iterator

from amqtt.session import Session


class Filters(dict[str, list[tuple[Session, int]]]):
    """Subscriptions by filter, with a look-up by topic that does not visit all of them.

    Iteration is empty on purpose. amqtt iterates in two places: when a device connects, to offer it the retained
    messages of everyone's subscriptions; and when one leaves, to search all filters for its own, which
    `DurableBroker._del_all_subscriptions` does without a search.
    """

    def __init__(self) -> None:
        super().__init__()
        self._wild: dict[tuple[str, ...], set[str]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __setitem__(self, key: str, value: list[tuple[Session, int]]) -> None:
        super().__setitem__(key, value)
        if (fixed := fixed_part(key)) is not None:
            self._wild.setdefault(fixed, set()).add(key)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        if (fixed := fixed_part(key)) is not None:
            self._wild[fixed].discard(key)
            if not self._wild[fixed]:
                del self._wild[fixed]

    def clear(self) -> None:
        """Remove all subscriptions."""
        super().clear()
        self._wild.clear()

    def candidates(self, topic: str) -> list[str]:
        """Filters that may match `topic`."""
        found = [topic] if topic in self and fixed_part(topic) is None else []
        levels = topic.split("/")
        for count in range(len(levels) + 1):
            found += self._wild.get(tuple(levels[:count]), ())
        return found


def fixed_part(name: str) -> tuple[str, ...] | None:
    """The levels before the first wildcard; None if there is none."""
    levels = name.split("/")
    for index, level in enumerate(levels):
        if "+" in level or "#" in level:
            return tuple(levels[:index])
    return None
