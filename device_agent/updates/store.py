"""The model store: an OCI image layout; every blob is stored under its digest, completely or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from edgec.device_agent.errors import StateError
from edgec.device_agent.process.statefile import explain, fsync_folder, write_durably
from edgec.runtime.artifact import oci
from edgec.runtime.artifact.layout_folder import unpack_to_layout
from edgec.runtime.artifact.oci import Descriptor, Manifest
from edgec.runtime.errors import ArtifactError

_CHUNK = 1 << 20


class ModelStore:
    """The folder that `edgec.runtime` loads models from, by digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"
        self.partials = folder / "partial"
        try:
            self.blobs.mkdir(parents=True, exist_ok=True)
            self.partials.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"cannot use {folder}: {explain(error)}") from error

    def path(self, digest: str) -> Path:
        """Return the path of the blob `digest`, whether it exists or not."""
        return self.folder / oci.blob_path(digest)

    def has(self, blob: Descriptor) -> bool:
        """Return whether a blob is intact; its content is hashed, because disks and power cuts alter files."""
        path = self.path(blob.digest)
        if not path.is_file():
            return False
        if path.stat().st_size == blob.size and hash_file(path) == blob.digest:
            return True
        path.unlink(missing_ok=True)
        return False

    def missing(self, manifest: Manifest) -> list[Descriptor]:
        """Return the blobs of an artifact that are yet to be fetched."""
        return [blob for blob in manifest.all_blobs() if not self.has(blob)]

    def manifest(self, digest: str) -> Manifest | None:
        """Return the manifest `digest`; `None` when it is absent or damaged."""
        try:
            content = self.path(digest).read_bytes()
        except OSError:
            return None
        if oci.digest_of(content) != digest:
            self.path(digest).unlink(missing_ok=True)
            return None
        return oci.parse_manifest(content)

    def whole(self, digest: str) -> bool:
        """Return whether the artifact `digest` and all its blobs are intact."""
        try:
            manifest = self.manifest(digest)
        except ArtifactError:
            return False
        return manifest is not None and not self.missing(manifest)

    def add_manifest(self, digest: str, content: bytes) -> None:
        """Store a manifest whose digest has been verified."""
        write_durably(self.path(digest), content)

    def add_blob(self, blob: Descriptor, partial: Path) -> None:
        """Move a complete, verified download into place."""
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(self.path(blob.digest))
        fsync_folder(self.blobs)

    def add_artifact(self, path: Path) -> str:
        """Add an `.edge` file; returns its manifest's digest.

        Raises:
            ArtifactError: it is damaged.
            StateError: it cannot be written.
        """
        try:
            digest = unpack_to_layout(path, self.folder)
        except OSError as error:
            raise StateError(f"cannot store {path.name}: {explain(error)}") from error
        if not self.whole(digest):  # replaces a damaged blob of the same size
            digest = unpack_to_layout(path, self.folder)
        fsync_folder(self.blobs)
        return digest

    def collect(self, keep: Iterable[str]) -> int:
        """Remove blobs that no artifact in `keep` needs, and partial downloads; returns the bytes freed."""
        wanted = set()
        for digest in keep:
            wanted.add(digest)
            manifest = self.manifest(digest)
            if manifest is not None:
                wanted |= {blob.digest for blob in manifest.all_blobs()}
        freed = 0
        for path in (*self.blobs.iterdir(), *self.partials.iterdir()):
            if f"sha256:{path.name}" not in wanted or path.parent == self.partials:
                freed += path.stat().st_size
                path.unlink(missing_ok=True)
        return freed

    def free_bytes(self) -> int:
        """Return the space left for downloads."""
        return shutil.disk_usage(self.folder).free


def hash_file(path: Path) -> str:
    """Return the digest of a file's content."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return f"sha256:{state.hexdigest()}"
