"""The agent's side of its shadow: what it reports is what it has, and nothing that it had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgec.device_agent.cloud.outbox import Outbox
from edgec.device_agent.cloud.shadow import ShadowDesk
from edgec.device_agent.process.statefile import StateFile
from edgec.protocol import shadow
from edgec.protocol.codec import decode, encode
from edgec.protocol.shadow import ShadowDocument, ShadowState, ShadowUpdate
from edgec.protocol.topics import Kind, ParsedTopic, Topics

YARD = {"source": "test:320x240@20", "model": "m"}


class Fleet:
    """The other side, with the protocol's own rules: a document, told and asked by messages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outbox = Outbox(folder / "outbox.db", 2**20, 1e6)
        self.document = ShadowDocument()
        self.desk = self.start()

    def start(self) -> ShadowDesk:
        table: dict[str, Any] = {"models": {"m": {}}, "streams": {"door": {"source": "test", "model": "m"}}}
        state = StateFile(self.folder / "shadow.json")
        topics = Topics("default", "box")
        return ShadowDesk(topics, table, self.folder / "agent.toml", state, self.outbox, lambda *_: None)

    def hear(self) -> None:
        """Take what the agent reported."""
        assert self.outbox.flush(60)
        for entry in self.outbox.peek(100, set()):
            self.document = shadow.apply_update(self.document, decode(ShadowUpdate, entry.payload))
            self.outbox.acknowledge(entry.key)

    def desire(self, patch: dict[str, Any], *, there: bool = True) -> None:
        """Want something; an agent that is there hears of the difference."""
        before = self.document
        self.document = shadow.apply_update(before, ShadowUpdate(state=ShadowState(desired=patch)))
        delta = shadow.delta_of(self.document, before)
        if there and delta is not None:
            self.desk.receive(ParsedTopic("default", "box", Kind.SHADOW_DELTA, "config"), encode(delta))
            self.hear()

    def answer_get(self) -> None:
        """Send the whole document, as after each connection."""
        topic = ParsedTopic("default", "box", Kind.SHADOW_GET_ACCEPTED, "config")
        self.desk.receive(topic, encode(self.document))
        self.hear()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.outbox.close()


def test_what_was_removed_is_reported_no_more(fleet: Fleet) -> None:
    fleet.desire({"streams": {"yard": YARD, "door": {"priority": 3}}})
    assert fleet.document.state.reported == {"streams": {"yard": YARD, "door": {"priority": 3}}}
    fleet.desire({"streams": {"yard": {"model": None}, "door": None}})
    assert fleet.document.state.reported == {"streams": {"yard": {"source": "test:320x240@20"}}}
    fleet.desire({"streams": None})
    assert not fleet.document.state.reported
    assert shadow.delta_of(fleet.document) is None


def test_what_was_removed_while_the_agent_was_away_goes_too(fleet: Fleet) -> None:
    fleet.desire({"streams": {"yard": YARD}})
    fleet.desire({"streams": {"yard": None}}, there=False)
    fleet.desk = fleet.start()
    fleet.desk.report()  # as after each start: what it still knows
    fleet.hear()
    fleet.answer_get()
    assert fleet.document.state.reported == {"streams": {}}


def test_a_refusal_is_taken_back_with_its_cause(fleet: Fleet) -> None:
    fleet.desire({"streams": {"yard": {"threshold": 0.5}}})
    assert "streams.yard.source: is missing" in str(fleet.document.state.reported)
    fleet.desire({"streams": {"yard": None}})
    assert fleet.document.state.reported == {"streams": {}}
