"""The hash chain of the audit log: each entry's hash covers the entry and the hash before it.

Who changes, removes or inserts a row changes every hash after it; who cuts off the end is found out by a head that was
noted elsewhere, such as in an export.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgec.fleet.errors import FleetError

FIELDS = ("at", "actor", "action", "subject", "detail")
START = "0" * 64


def entry_hash(previous: str, entry: Mapping[str, Any]) -> str:
    """The hash of `entry` (`FIELDS`) after the one whose hash is `previous`: SHA-256 over both as canonical JSON."""
    canonical = json.dumps(
        [previous, *(entry[field] for field in FIELDS)],
        sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False,
    )  # fmt: skip
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a chain: how many there are, and its hash. Written as `COUNT:HASH`."""

    count: int = 0
    hash: str = START

    def __str__(self) -> str:
        return f"{self.count}:{self.hash}"


def parse_head(text: str) -> Head:
    """The head that `str` wrote.

    Raises:
        FleetError: it is not of the form `COUNT:HASH`.
    """
    count, _, digest = text.partition(":")
    if not count.isdecimal() or len(digest) != 64:
        raise FleetError(f"{text!r} is not the head of an audit log: write COUNT:HASH, as 'verify' prints it")
    return Head(int(count), digest)


class ChainBroken(FleetError):
    """An audit log is not what was written; the message names the first entry that is wrong."""


def verify(entries: Iterable[Mapping[str, Any]], expected: Head | None = None) -> Head:
    """Check a whole chain of entries (`FIELDS` and `hash`), oldest first.

    Args:
        entries: from the first entry on.
        expected: a head of earlier, which must still be part of the chain.

    Returns:
        The chain's head.

    Raises:
        ChainBroken: an entry was changed, removed or inserted, or `expected` is not part of the chain.
    """
    head, met = Head(), expected is None or expected.count == 0
    for entry in entries:
        digest = entry_hash(head.hash, entry)
        if digest != entry["hash"]:
            raise ChainBroken(
                f"entry {head.count + 1} ({entry['action']} by {entry['actor']}) does not follow from the one before: "
                "it was changed, or entries before it were removed or inserted"
            )
        head = Head(head.count + 1, digest)
        if expected is not None and head.count == expected.count:
            if head.hash != expected.hash:
                raise ChainBroken(
                    f"entry {head.count} is not the one of the expected head: the log was rewritten"
                )
            met = True
    if not met:
        raise ChainBroken(
            f"the log ends at entry {head.count}, but had {expected.count if expected else 0}: it was cut"
        )
    return head


def read_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The entries of an export, one JSON object a line.

    Raises:
        ChainBroken: a line is not an entry.
    """
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            yield {field: entry[field] for field in (*FIELDS, "hash")}
        except (ValueError, KeyError, TypeError) as error:
            raise ChainBroken(f"line {number} is not an entry of an audit log") from error
