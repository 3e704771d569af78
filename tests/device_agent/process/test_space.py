"""On a small disk, pictures leave room for the outbox and for updates, and give way to them."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgec.device_agent.cloud.outbox import Outbox
from edgec.device_agent.errors import FetchError, StateError
from edgec.device_agent.inference.captures import Spool
from edgec.device_agent.inference.media import MediaRing
from edgec.device_agent.process.retry import RetryPolicy
from edgec.device_agent.process.space import Reserve, free_bytes, make_room
from edgec.device_agent.updates.fetch import Fetcher
from edgec.device_agent.updates.store import ModelStore
from tests.device_agent.capture_server import JPEG, capture_meta
from tests.device_agent.harness import Registry, make_artifact

MB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a disk of its own needs the right to mount one: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(ring: MediaRing, count: int) -> None:
    """Store so many pictures of about 1.7 MB, one after the other."""
    for number in range(count):
        picture = np.random.default_rng(number).integers(0, 255, (1080, 1920, 3), np.uint8)
        assert ring.save(f"p-{number:03}.jpg", picture)
        written = threading.Event()
        ring.submit(written.set)
        assert written.wait(60)


def test_pictures_leave_the_reserve_and_give_way(disk: Path, tmp_path: Path, registry: Registry) -> None:
    reserve = Reserve(disk / "media", 100 * MB)
    assert reserve.size == 10 * MB, "a quarter of the disk"
    ring = MediaRing(disk / "media", 256 * MB, reserve)
    fill(ring, 40)
    names = sorted(path.name for path in (disk / "media").iterdir())
    assert names[-1] == "p-039.jpg", "the newest are there"
    assert names[0] > "p-005.jpg", "the oldest made room"
    assert free_bytes(disk) >= 10 * MB
    # The reserve is there for an update that needs it, and pictures give more.
    path, _ = make_artifact(tmp_path, "1", size=6 * MB)
    digest = registry.add(path)
    store = ModelStore(disk / "models")
    arguments = (
        store,
        registry.url,
        "models/detector",
        None,
        threading.Event(),
        RetryPolicy(0.01, 0.05, 5.0),
    )
    fetcher = Fetcher(*arguments, make_room=lambda wanted: make_room(disk / "media", wanted))
    fetcher.fetch(digest)
    assert store.whole(digest)
    # Something else has filled the disk: a refusal names the reserve, and captures keep out of it.
    shutil.rmtree(disk / "models")
    make_room(disk / "media", 40 * MB)
    with (disk / "other").open("wb") as other:
        other.write(bytes(free_bytes(disk) - 18 * MB))
    fetcher = Fetcher(ModelStore(disk / "models"), *arguments[1:])
    with pytest.raises(
        FetchError, match=r"needs 6\.\d MB and 16\.8 MB are kept for the outbox, but only 18\.\d MB"
    ):
        fetcher.fetch(digest)
    with (disk / "more").open("wb") as other:
        other.write(bytes(free_bytes(disk) - 9 * MB))
    with pytest.raises(StateError, match="are kept for the outbox and updates"):
        Spool(disk / "samples", 64 * MB, 10, reserve).store(capture_meta(1), JPEG)
    fill(ring, 1)
    assert "are kept for the outbox and updates" in ring.problem


def test_the_outbox_gets_room_from_pictures(disk: Path) -> None:
    fill(MediaRing(disk / "media", 256 * MB), 12)
    with (disk / "other").open("wb") as other:
        other.write(bytes(max(0, free_bytes(disk) - 100_000)))
    box = Outbox(disk / "outbox.db", 64 * MB, 1e6, make_room=lambda wanted: make_room(disk / "media", wanted))
    for number in range(40):
        box.put("t", bytes(20_000), f"m-{number}")
    assert box.flush(60)
    assert (box.state().depth, box.state().problem) == (40, "")
    box.close()
