"""Files that are replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.fleet.store.files import mend_folder, replace_file


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


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=80), st.data())
def test_a_damaged_file_is_written_from_its_copy(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("copies") / "ca.key"
    copy = path.with_name("ca.key.copy")
    replace_file(path, content, mode=data.draw(st.sampled_from([0o600, 0o644])), copied=True)
    victim = data.draw(st.sampled_from([path, copy]))
    raw = bytearray(victim.read_bytes())
    match data.draw(st.sampled_from(["alter", "cut", "gone"])):
        case "alter":
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
            victim.write_bytes(raw)
        case "cut":
            victim.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
        case "gone":
            victim.unlink()
    assert mend_folder(path.parent, ("ca.*",)) == ([path] if victim == path else [])
    assert path.read_bytes() == content
    assert mend_folder(path.parent, ("ca.*",)) == []
    assert victim.stat().st_mode & 0o077 == 0
