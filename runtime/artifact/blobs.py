"""An artifact's blobs: mapped from a file or a layout folder, and hashed by threads while the load goes on."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from edgec.runtime.artifact import oci
from edgec.runtime.errors import ArtifactError


def map_file(path: Path) -> memoryview:
    """The file's bytes, mapped copy-on-write: shared with every other process that maps it, and never
    written.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ArtifactError(f"{path}: the file is empty")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error


class BackgroundHashing:
    """Digests of blobs, computed by threads of their own from now on, as many as can be had.

    The threads end with the process: a load that was refused does not keep it until all is hashed.
    """

    def __init__(self, blobs: Mapping[str, memoryview]) -> None:
        self._blobs = blobs
        self._left = sorted(blobs.items(), key=lambda blob: len(blob[1]))
        self._found: dict[str, str] = {}
        count = min(4, os.cpu_count() or 1, len(blobs))
        self._threads: list[threading.Thread] = []
        with suppress(RuntimeError):  # no thread can be started: whoever waits hashes
            for _ in range(count):
                thread = threading.Thread(target=self._work, name="edgec-hash", daemon=True)
                thread.start()
                self._threads.append(thread)

    def _work(self) -> None:
        with suppress(IndexError):  # none is left
            while True:
                name, content = self._left.pop()
                self._found[name] = oci.digest_of(content)

    def finish(self) -> dict[str, str]:
        """The blobs' digests, by the digests that they should have."""
        self._work()
        for thread in self._threads:
            thread.join()
        # what a thread began and could not end is hashed here, so that its error comes to who asks
        return {
            name: self._found.get(name) or oci.digest_of(content) for name, content in self._blobs.items()
        }


class FolderBlobs(Mapping[str, memoryview]):
    """The blobs of a layout folder, each mapped when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped: dict[str, memoryview] = {}

    def __getitem__(self, digest: str) -> memoryview:
        if digest not in self._mapped:
            path = self._folder / oci.blob_path(digest)
            if not oci.is_digest(digest) or not path.is_file():
                raise KeyError(digest)
            self._mapped[digest] = map_file(path)
        return self._mapped[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self._mapped)

    def __len__(self) -> int:
        return len(self._mapped)
