"""Blobs: mapped on first access, hashed by threads that may fail."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edgec.runtime.artifact import oci
from edgec.runtime.artifact.blobs import BackgroundHashing, FolderBlobs, map_file
from edgec.runtime.errors import ArtifactError

CONTENTS = [bytes([number]) * (1000 * number + 1) for number in range(9)]


def test_digests_come_from_threads_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    genuine = oci.digest_of

    def digest_of(content: bytes | memoryview, _cancelled: object = None) -> str:
        seen.add(threading.current_thread().name)
        return genuine(content)

    monkeypatch.setattr(oci, "digest_of", digest_of)
    blobs = {str(number): memoryview(content) for number, content in enumerate(CONTENTS)}
    hashing = BackgroundHashing(blobs)
    for thread in hashing._threads:
        thread.join()
    assert seen == {"edgec-hash"}
    assert hashing.finish() == {name: genuine(content) for name, content in blobs.items()}
    assert seen == {"edgec-hash"}


def test_an_error_of_a_thread_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: bytes | memoryview, _cancelled: object = None) -> str:
        raise MemoryError("no memory to hash with")

    monkeypatch.setattr(oci, "digest_of", broken)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    hashing = BackgroundHashing({"a": memoryview(b"abc")})
    with pytest.raises(MemoryError, match="to hash with"):
        hashing.finish()


def test_no_thread_reads_after_a_cancel() -> None:
    """Whoever replaces the file after a refused load would otherwise end the process."""
    large = bytes(200 << 20)
    hashing = BackgroundHashing({str(number): memoryview(large) for number in range(8)})
    hashing.cancel()
    assert not any(thread.is_alive() for thread in hashing._threads)
    assert len(hashing._found) < 8


def test_a_folders_blobs_are_mapped_on_first_access(tmp_path: Path) -> None:
    digests = [oci.digest_of(content) for content in CONTENTS[:2]]
    for digest, content in zip(digests, CONTENTS[:2], strict=True):
        path = tmp_path / oci.blob_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    blobs = FolderBlobs(tmp_path)
    assert len(blobs) == 0
    assert bytes(blobs[digests[1]]) == CONTENTS[1]
    assert list(blobs) == [digests[1]]
    with pytest.raises(KeyError):
        blobs[oci.digest_of(b"missing")]


@pytest.mark.parametrize("digest", ["sha256:../../../secret", "secret"])
def test_only_digests_name_files(tmp_path: Path, digest: str) -> None:
    """A manifest from elsewhere must not reach files outside the folder."""
    (tmp_path / "secret").write_bytes(b"key")
    folder = tmp_path / "layout"
    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / "blobs" / "sha256" / "secret").write_bytes(b"not a blob")
    with pytest.raises(KeyError):
        FolderBlobs(folder)[digest]


def test_files_that_cannot_be_mapped_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ArtifactError, match="empty: the file is empty"):
        map_file(tmp_path / "empty")
    with pytest.raises(ArtifactError, match="nowhere: cannot be read: No such file"):
        map_file(tmp_path / "nowhere")
