"""Search in text columns takes the text as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from edgec.fleet.store.database import Database
from edgec.fleet.store.search import contains
from edgec.fleet.store.tables import Device


@pytest.mark.parametrize(
    ("text", "found"),
    [("CAM", {"cam_1", "cam-1"}), ("m_1", {"cam_1"}), ("%", {"100%"}), ("rpi", {"cam-1"}), ("\\", {"a\\b"})],
)
def test_a_text_is_found_as_it_is(tmp_path: Path, text: str, found: set[str]) -> None:
    database = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    database.migrate()
    with database.writing() as session:
        session.add_all(Device(name=name) for name in ("cam_1", "100%", "a\\b"))
        session.add(Device(name="cam-1", target="rpi5"))
    with database.reading() as session:
        names = session.scalars(select(Device.name).where(contains(text, Device.name, Device.target)))
        assert set(names) == found
    database.close()
