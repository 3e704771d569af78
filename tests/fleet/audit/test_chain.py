"""Whatever is done to an audit log shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.fleet.audit.chain import START, ChainBroken, Head, entry_hash, parse_head, read_lines, verify

ENTRIES = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.floats(0, 2e9),
            "actor": st.text(max_size=8),
            "action": st.sampled_from(["sign-in", "registry.push"]),
            "subject": st.text(max_size=8),
            "detail": st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=2),
        }
    ),
    min_size=2,
    max_size=8,
)


def chained(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    previous, found = START, []
    for entry in entries:
        previous = entry_hash(previous, entry)
        found.append({**entry, "hash": previous})
    return found


@given(ENTRIES, st.data())
def test_a_change_a_gap_and_a_swap_are_found(entries: list[dict[str, Any]], data: st.DataObject) -> None:
    log = chained(entries)
    head = verify(read_lines(json.dumps(entry) for entry in log))
    assert (head.count, head.hash, parse_head(str(head))) == (len(log), log[-1]["hash"], head)
    at = data.draw(st.integers(0, len(log) - 1))
    changed = [dict(entry) for entry in log]
    changed[at]["actor"] += "x"
    with pytest.raises(ChainBroken, match=f"entry {at + 1} "):
        verify(changed)
    inner = data.draw(st.integers(0, len(log) - 2))
    with pytest.raises(ChainBroken, match=f"entry {inner + 1} "):
        verify(log[:inner] + log[inner + 1 :])
    # Who can write the whole log anew is found out by a head that was noted.
    forged = chained([{**entry, "actor": "nobody"} for entry in entries])
    assert verify(forged).count == head.count
    with pytest.raises(ChainBroken, match="rewritten"):
        verify(forged, head)
    with pytest.raises(ChainBroken, match="cut"):
        verify(log[:-1], head)
    assert verify(log, Head(inner + 1, log[inner]["hash"])) == head


def test_what_is_no_log_is_refused() -> None:
    with pytest.raises(ChainBroken, match="line 1"):
        list(read_lines(["{}"]))
    with pytest.raises(Exception, match="COUNT:HASH"):
        parse_head("12")
