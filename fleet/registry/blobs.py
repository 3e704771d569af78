"""Blob storage: one file per blob, named by digest, that appears only once it is complete, verified and on disk."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from edgec.fleet.errors import FleetError

CHUNK = 1 << 20
UPLOAD_NAME = re.compile(r"[0-9a-f]{32}")
_HEX = re.compile(r"[0-9a-f]{64}")


class DigestMismatch(FleetError):
    """The bytes received do not match the digest."""


class OffsetMismatch(FleetError):
    """A chunk does not start at the end of the upload; `size` is the current offset."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the upload has {size} bytes")
        self.size = size


class UnknownUpload(FleetError):
    """There is no such upload: it is finished, was canceled, or never existed."""


class StoreAway(OSError):
    """The blob store does not answer, or refuses; `strerror` is its message."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob: `size` in bytes, and `path` where it is a file."""

    path: Path | None
    size: int


class UploadStream(Protocol):
    """An upload that is open for appending."""

    def write(self, chunk: bytes, /) -> int:
        """Append."""

    def close(self) -> None:
        """Persist what was written."""


class BlobStore(Protocol):
    """A blob store: a folder or a bucket; `BlobFolder` documents the methods."""

    def check(self) -> None: ...  # noqa: D102
    def find(self, digest: str) -> StoredBlob | None: ...  # noqa: D102
    def read(self, digest: str) -> bytes: ...  # noqa: D102
    def respond(self, digest: str, size: int, request: Request, headers: dict[str, str]) -> Response: ...  # noqa: D102
    def start_upload(self) -> str: ...  # noqa: D102
    def upload_size(self, name: str) -> int: ...  # noqa: D102
    def open_upload(self, name: str, offset: int | None) -> UploadStream: ...  # noqa: D102
    def finish_upload(self, name: str, digest: str, known: str | None = None) -> StoredBlob: ...  # noqa: D102
    def put(self, content: bytes) -> str: ...  # noqa: D102
    def cancel_upload(self, name: str) -> None: ...  # noqa: D102
    def delete(self, digest: str) -> None: ...  # noqa: D102
    def digests(self) -> Iterator[tuple[str, float, int]]: ...  # noqa: D102
    def stale_uploads(self, before: float) -> list[str]: ...  # noqa: D102


def check_sha256(digest: str) -> str:
    """The hexadecimal digits of `sha256:<64 hex digits>`.

    Raises:
        DigestMismatch: the digest has another form.
    """
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or not _HEX.fullmatch(value):
        raise DigestMismatch(f"{digest!r} is not a sha256 digest")
    return value


class BlobResponse(FileResponse):
    """Sends ranges, and content over TLS, in chunks large enough to be worth a thread switch."""

    chunk_size = 1 << 20


class BlobFolder:
    """Blobs in `<root>/blobs/sha256/ab/<digest>`, uploads in `<root>/uploads`.

    Uploads survive a crash of the server: every byte acknowledged to the client is in the file, whose length is the
    offset. Several processes may share the folder.
    """

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs" / "sha256"
        self._uploads = root / "uploads"
        for folder in (self._blobs, self._uploads):
            folder.mkdir(parents=True, exist_ok=True)

    def _path(self, digest: str) -> Path:
        value = check_sha256(digest)
        return self._blobs / value[:2] / value

    def check(self) -> None:
        """Check that the store is available.

        Raises:
            StoreAway: it is not.
        """
        if not self._blobs.is_dir():
            raise StoreAway(errno.ENOENT, f"the folder {self._blobs} is gone")

    def find(self, digest: str) -> StoredBlob | None:
        """The blob, or None.

        Raises:
            DigestMismatch: `digest` is not of the form `sha256:<64 hex digits>`.
        """
        path = self._path(digest)
        try:
            return StoredBlob(path, path.stat().st_size)
        except FileNotFoundError:
            return None

    def read(self, digest: str) -> bytes:
        """All bytes of a small blob.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._path(digest).read_bytes()

    def respond(self, digest: str, size: int, request: Request, headers: dict[str, str]) -> Response:
        """The response to a GET or HEAD: a whole blob of `size` bytes, or the range requested."""
        return BlobResponse(self._path(digest), headers=headers, media_type="application/octet-stream")

    def start_upload(self) -> str:
        """Start an upload and return its name."""
        name = secrets.token_hex(16)
        (self._uploads / name).touch(exist_ok=False)
        return name

    def _upload(self, name: str) -> Path:
        path = self._uploads / name
        if not UPLOAD_NAME.fullmatch(name) or not path.is_file():
            raise UnknownUpload(f"there is no upload {name!r}")
        return path

    def upload_size(self, name: str) -> int:
        """How many bytes have arrived.

        Raises:
            UnknownUpload: there is no such upload.
        """
        return self._upload(name).stat().st_size

    def open_upload(self, name: str, offset: int | None) -> BinaryIO:
        """Open an upload to append at `offset` (None: at its end).

        Raises:
            UnknownUpload: there is no such upload.
            OffsetMismatch: it ends elsewhere.
        """
        path = self._upload(name)
        size = path.stat().st_size
        if offset is not None and offset != size:
            raise OffsetMismatch(size)
        return path.open("ab")

    def finish_upload(self, name: str, digest: str, known: str | None = None) -> StoredBlob:
        """Verify an upload against `digest` and turn it into a blob. `known` is its digest if the caller computed
        it.

        Raises:
            UnknownUpload: there is no such upload.
            DigestMismatch: the bytes differ; the upload is discarded.
        """
        path = self._upload(name)
        target = self._path(digest)
        with path.open("rb") as stream:
            actual = known or f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
            if actual != digest:
                path.unlink()
                raise DigestMismatch(f"the upload's digest is {actual}, not {digest}")
            os.fsync(stream.fileno())
        size = path.stat().st_size
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        _sync_folder(target.parent)
        return StoredBlob(target, size)

    def put(self, content: bytes) -> str:
        """Store a small blob and return its digest."""
        name = self.start_upload()
        with self.open_upload(name, 0) as stream:
            stream.write(content)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.finish_upload(name, digest, digest)
        return digest

    def cancel_upload(self, name: str) -> None:
        """Cancel an upload.

        Raises:
            UnknownUpload: there is no such upload.
        """
        self._upload(name).unlink()

    def delete(self, digest: str) -> None:
        """Delete a blob, if it is there."""
        self._path(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[tuple[str, float, int]]:
        """Iterate over all blobs: digest, time of last change, size."""
        for path in self._blobs.glob("??/*"):
            stat = path.stat()
            yield f"sha256:{path.name}", stat.st_mtime, stat.st_size

    def stale_uploads(self, before: float) -> list[str]:
        """Uploads not written to since `before`."""
        return [path.name for path in self._uploads.iterdir() if path.stat().st_mtime < before]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
