"""A registry that misbehaves costs retries, never a wrong byte, and never more bytes than were promised."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edgec.device_agent.errors import FetchError, TrustError
from edgec.device_agent.process.retry import RetryPolicy
from edgec.device_agent.updates.fetch import Canceled, Fetcher
from edgec.device_agent.updates.store import ModelStore
from tests.device_agent.harness import Registry, make_artifact, recovering

RETRY = RetryPolicy(first_s=0.01, max_s=0.05, total_s=60)
SIZE = 600_000


def fetcher(store: ModelStore, registry: Registry, stop: threading.Event | None = None) -> Fetcher:
    return Fetcher(
        store, registry.url, "models/detector", None, stop or threading.Event(), RETRY, timeout_s=1
    )


@pytest.fixture
def digest(tmp_path: Path, registry: Registry) -> str:
    path, digest = make_artifact(tmp_path, "7", size=SIZE)
    registry.add(path)
    return digest


@pytest.mark.parametrize(
    "faults",
    [
        ["500"], ["503", "503", "429"], ["half"], ["half", "half", "half"], ["wrong-length"], ["too-much"],
        ["altered"], ["reset"], ["half", "wrong-range"], ["half", "ignore-range"], ["half", "precondition"],
        ["half", "altered"],
        ["half", "reset", "500", "half", "wrong-range", "ignore-range", "too-much", "altered"],
    ],
    ids="+".join,
)  # fmt: skip
def test_every_fault_ends_in_the_right_bytes(
    tmp_path: Path, registry: Registry, digest: str, faults: list[str]
) -> None:
    store = ModelStore(tmp_path / "models")
    registry.faults = ["", *faults]  # the config blob is small: let the faults meet the others
    work = fetcher(store, registry)
    with recovering(f"registry: {'+'.join(faults)}"):
        work.fetch(digest)
    assert store.whole(digest)
    assert not list(store.partials.iterdir())
    assert work.retries


def test_a_cut_download_goes_on_where_it_was(tmp_path: Path, registry: Registry, digest: str) -> None:
    store = ModelStore(tmp_path / "models")
    registry.faults = ["", "", "half", "half"]
    work = fetcher(store, registry)
    work.fetch(digest)
    ranges = [wanted for _, wanted, size in registry.requests if size > SIZE // 2]
    assert ranges[0] is None
    assert all(ranges[1:])
    assert work.transferred < 1.05 * sum(size for _, wanted, size in registry.requests if wanted is None)


def test_a_new_process_goes_on_where_the_old_one_died(
    tmp_path: Path, registry: Registry, digest: str
) -> None:
    store = ModelStore(tmp_path / "models")
    stop = threading.Event()
    work = fetcher(store, registry, stop)
    work._on_progress = lambda done, total: stop.set() if done > SIZE // 3 else None
    with pytest.raises(Canceled):
        work.fetch(digest)
    again = fetcher(ModelStore(tmp_path / "models"), registry)
    again.fetch(digest)
    assert work.transferred + again.transferred < 1.05 * SIZE + 20_000
    assert store.whole(digest)


def test_only_missing_blobs_travel(tmp_path: Path, registry: Registry, digest: str) -> None:
    store = ModelStore(tmp_path / "models")
    fetcher(store, registry).fetch(digest)
    weights = max(store.blobs.iterdir(), key=lambda path: path.stat().st_size)
    for damage in (
        b"",
        weights.read_bytes()[:-1],
        bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:],
    ):
        weights.write_bytes(damage)
        assert not store.whole(digest)
        registry.requests.clear()
        fetcher(store, registry).fetch(digest)
        assert store.whole(digest)
        assert {one for one, _, _ in registry.requests} == {f"sha256:{weights.name}"}


def test_a_blob_of_another_length_than_promised_is_given_up(
    tmp_path: Path, registry: Registry, digest: str
) -> None:
    store = ModelStore(tmp_path / "models")
    registry.faults = ["wrong-length"] * 50
    with pytest.raises(TrustError, match="announces"):
        fetcher(store, registry).fetch(digest)
    assert len(registry.requests) < 10


def test_content_that_never_fits_its_digest_is_not_trusted(
    tmp_path: Path, registry: Registry, digest: str
) -> None:
    store = ModelStore(tmp_path / "models")
    registry.faults = ["altered"] * 50
    with pytest.raises(TrustError, match="digest"):
        fetcher(store, registry).fetch(digest)
    assert not store.whole(digest)


def test_a_missing_artifact_or_registry_is_named(tmp_path: Path, registry: Registry, digest: str) -> None:
    store = ModelStore(tmp_path / "models")
    with pytest.raises(FetchError, match="404"):
        fetcher(store, registry).fetch("sha256:" + "1" * 64)
    registry.close()
    work = Fetcher(
        store,
        registry.url,
        "models/detector",
        None,
        threading.Event(),
        RetryPolicy(first_s=0.01, max_s=0.05, total_s=0.3),
        timeout_s=1,
    )
    with pytest.raises(FetchError, match="could not be fetched"):
        work.fetch(digest)


def test_a_full_disk_is_said_before_the_download(
    tmp_path: Path, registry: Registry, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path / "models")
    monkeypatch.setattr(store, "free_bytes", lambda: 1000)
    with pytest.raises(FetchError, match="disk is full"):
        fetcher(store, registry).fetch(digest)
    assert not any(size > SIZE // 2 for _, _, size in registry.requests)
