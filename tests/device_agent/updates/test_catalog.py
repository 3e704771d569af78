"""The catalog of slots: what to install, what to load in which order, and which slot an update is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgec.device_agent.config.settings import AgentConfig
from edgec.device_agent.errors import UpdateError
from edgec.device_agent.updates.catalog import Catalog
from edgec.device_agent.updates.deployments import Deployments, SlotState, Version
from edgec.device_agent.updates.store import ModelStore
from edgec.protocol.jobs import UpdateDocument
from tests.device_agent.harness import make_artifact


class Box:
    """A catalog with its parts."""

    def __init__(self, folder: Path, models: dict[str, Any]) -> None:
        self.config = AgentConfig.model_validate({"models": models})
        self.deployments = Deployments(folder / "deployments.json")
        self.store = ModelStore(folder / "models")
        self.degraded: dict[str, str] = {}
        self.catalog = Catalog(
            lambda: self.config,
            self.deployments,
            self.store,
            lambda what, why: self.degraded.update({what: why}),
        )


def update(model: str, slot: str | None = None) -> UpdateDocument:
    return UpdateDocument.model_validate(
        {
            "operation": "update", "model": model, "version": "9", "slot": slot, "registry": "http://r",
            "repository": "models/x", "manifest_digest": "sha256:" + "0" * 64,
        }
    )  # fmt: skip


def test_a_configured_artifact_is_installed_once_and_replaced_when_it_changes(tmp_path: Path) -> None:
    path, digest = make_artifact(tmp_path, "1")
    box = Box(tmp_path / "state", {"m": {"artifact": str(path), "threads": 2}})
    box.catalog.install("m")
    assert box.deployments.slot("m") == SlotState(Version(digest), None, digest)
    box.deployments.set_slot("m", SlotState(Version("sha256:deployed"), Version(digest), digest))
    box.catalog.install("m")
    assert box.deployments.slot("m").current == Version("sha256:deployed"), "the update outlives a restart"
    other, other_digest = make_artifact(tmp_path, "22")
    other.replace(path)
    box.catalog.install("m")
    assert box.deployments.slot("m").current == Version(other_digest)
    assert box.degraded == {}


def test_candidates_come_best_first_and_end_with_the_file(tmp_path: Path) -> None:
    path, digest = make_artifact(tmp_path, "1")
    box = Box(tmp_path / "state", {"m": {"artifact": str(path), "threads": 2}})
    box.catalog.install("m")
    box.deployments.set_slot("m", SlotState(Version("sha256:c"), Version("sha256:p"), digest))
    found = [(one.digest, one.threads) for one in box.catalog.candidates("m")]
    assert found == [("sha256:c", 2), ("sha256:p", 2), (digest, 2), (None, 2)]
    assert box.catalog.candidates("m")[-1].path == str(path)
    assert box.catalog.candidates("unknown") == []


def test_a_missing_or_damaged_artifact_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "damaged.edge"
    path.write_bytes(b"no artifact")
    box = Box(
        tmp_path / "state", {"a": {"artifact": str(tmp_path / "none.edge")}, "b": {"artifact": str(path)}}
    )
    box.catalog.install("a")
    box.catalog.install("b")
    assert "none.edge" in box.degraded["model a"]
    assert "damaged.edge" in box.degraded["model b"]


def test_an_update_finds_its_slot(tmp_path: Path) -> None:
    box = Box(tmp_path / "one", {"only": {}})
    assert box.catalog.slot_for(update("anything")) == "only"
    assert box.catalog.slot_for(update("anything", "elsewhere")) is None
    box = Box(tmp_path / "two", {"left": {}, "right": {}})
    assert box.catalog.slot_for(update("right")) == "right"
    assert box.catalog.slot_for(update("faces")) is None
    assert box.catalog.slot_for(update("faces", "left")) == "left"
    box.deployments.set_slot("left", SlotState(Version("sha256:f", "faces", "1")))
    assert box.catalog.slot_for(update("faces")) == "left"


def test_a_rollback_exchanges_both_models(tmp_path: Path) -> None:
    box = Box(tmp_path, {"m": {}})
    with pytest.raises(UpdateError, match="no previous model"):
        box.catalog.roll_back(None)
    new, old = Version("sha256:n", "d", "2"), Version("sha256:o", "d", "1")
    box.deployments.set_slot("m", SlotState(new, old))
    assert box.catalog.roll_back(None) == ("m", old)
    assert box.deployments.slot("m") == SlotState(old, new)
