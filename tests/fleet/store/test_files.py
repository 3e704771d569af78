"""Files that are replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.fleet.store.files import replace_file


def test_a_file_is_replaced_with_the_wanted_permissions(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("old, and longer than the new one")
    path.chmod(0o644)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["key.pem"], "nothing is left beside it"


def test_what_is_there_survives_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key.pem"
    path.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new")
    assert path.read_text() == "old"
