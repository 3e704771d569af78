"""Winners on disk: shared by processes, absent when damaged, and never a reason to fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgec.compiler.tuning.cache import TuningCache, Winner

WINNER = Winner("schedule", 1.5)
WRITER = """
import sys
from pathlib import Path
from edgec.compiler.tuning.cache import TuningCache, Winner
cache = TuningCache(Path(sys.argv[1]), "here")
for i in range(300):
    cache.put(f"key{i % 7}", Winner(f"schedule {sys.argv[2]}", float(i)), "fast")
    found = cache.get(f"key{i % 7}", "fast")
    assert found is not None and found.schedule in ("schedule a", "schedule b"), found
"""


def test_a_winner_comes_back_for_its_key_and_effort(tmp_path: Path) -> None:
    cache = TuningCache(tmp_path, "here")
    cache.put("key", WINNER, "fast")
    assert cache.get("key", "fast") == WINNER
    assert cache.get("other", "fast") is None
    assert cache.get("key", "full") is None
    cache.put("key", WINNER, "full")
    assert cache.get("key", "full") == cache.get("key", "fast") == WINNER
    assert TuningCache(tmp_path, "elsewhere").get("key", "fast") is None


@pytest.mark.parametrize(
    "content",
    [b"", b'{"format": 1, "key"', b"\xff\xfe", b"[]", b"null", b'{"format": 99, "key": "key"}'],
    ids=["empty", "cut", "not text", "list", "null", "another version"],
)
def test_a_damaged_entry_counts_as_absent_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    cache = TuningCache(tmp_path, "here")
    cache.put("key", WINNER, "fast")
    (entry,) = tmp_path.rglob("*.json")
    entry.write_bytes(content)
    assert cache.get("key", "fast") is None
    cache.put("key", WINNER, "fast")
    assert cache.get("key", "fast") == WINNER


def test_an_entry_of_another_key_is_not_taken(tmp_path: Path) -> None:
    cache = TuningCache(tmp_path, "here")
    cache.put("key", WINNER, "fast")
    (entry,) = tmp_path.rglob("*.json")
    entry.write_text(json.dumps(json.loads(entry.read_text()) | {"key": "of the same digest"}))
    assert cache.get("key", "fast") is None


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = TuningCache(tmp_path / "file", "here")
    cache.put("key", WINNER, "fast")
    assert cache.get("key", "fast") is None
    assert (tmp_path / "file").read_text() == "in the way"


def test_names_of_targets_stay_inside_the_folder(tmp_path: Path) -> None:
    TuningCache(tmp_path / "cache", "../../etc|avx512 vnni").put("key", WINNER, "fast")
    assert next(iter(tmp_path.rglob("*.json"))).is_relative_to(tmp_path / "cache")


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert not list(tmp_path.rglob(".new-*"))
