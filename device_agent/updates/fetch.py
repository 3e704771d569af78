"""Downloads of artifacts from an OCI registry: only missing blobs, resumable, accepted only with the right hash.

A registry may answer anything; no answer may cost more than the promised number of bytes.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx

from edgec.device_agent.errors import FetchError, TrustError
from edgec.device_agent.process.causes import cause_of
from edgec.device_agent.process.retry import Backoff, RetryPolicy
from edgec.device_agent.process.statefile import explain
from edgec.device_agent.updates.store import ModelStore, hash_file
from edgec.protocol.enrol import RegistryAccess
from edgec.protocol.jobs import UpdateDocument
from edgec.runtime.artifact import oci
from edgec.runtime.artifact.oci import Descriptor, Manifest
from edgec.runtime.errors import ArtifactError

log = logging.getLogger("fetch")

MAX_MANIFEST_BYTES = 1 << 20
MAX_ARTIFACT_BYTES = 8 << 30
_SPARE_BYTES = 16 << 20
_CHUNK = 256 << 10
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_MAX_WRONG_SIZES = 5
_GIVE_UP = frozenset({400, 401, 403, 404, 410, 451})


class Canceled(Exception):
    """The job was cancelled, or the agent stops."""


class _Retryable(Exception):
    """A failure that another attempt may avoid."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class _WrongSize(_Retryable):
    """A body of another length than promised: at first presumed a proxy's fault, finally the artifact's."""


RETRY = RetryPolicy(first_s=1.0, max_s=60.0, total_s=3600.0)
_SILENCE_S = 20.0
"""A request is retried when the registry sends nothing for this long."""


class Fetcher:
    """Downloads into a model store."""

    def __init__(
        self,
        store: ModelStore,
        registry: str,
        repository: str,
        token: str | None,
        stop: threading.Event,
        retry: RetryPolicy = RETRY,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        timeout_s: float = _SILENCE_S,
        make_room: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._make_room = make_room
        self._store, self._base = store, f"{registry.rstrip('/')}/v2/{repository}"
        self._stop, self._on_progress = stop, on_progress
        self._retry = retry
        self._wrong_sizes = 0
        self._deadline = time.monotonic() + retry.total_s
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(headers=headers, timeout=timeout_s, follow_redirects=True)
        self.transferred = 0
        self.retries = 0

    def fetch(self, digest: str) -> Manifest:
        """Download the artifact `digest` completely.

        Raises:
            FetchError: the registry did not deliver it within the total time.
            TrustError: the content is not what the digest names.
            Canceled: the download was told to stop.
        """
        with self._client:
            try:
                manifest = self._store.manifest(digest)
            except ArtifactError as error:  # the digest names some other blob of the store
                raise TrustError(str(error)) from error
            manifest = manifest or self._fetch_manifest(digest)
            missing = self._store.missing(manifest)
            total = sum(blob.size for blob in missing)
            if total > MAX_ARTIFACT_BYTES:
                raise TrustError(f"the artifact claims {total} bytes, more than {MAX_ARTIFACT_BYTES}")
            here = sum(
                self._partial(blob).stat().st_size for blob in missing if self._partial(blob).is_file()
            )
            needed = total - here + _SPARE_BYTES
            if needed > self._store.free_bytes():
                self._make_room(needed)
            if needed > self._store.free_bytes():
                raise FetchError(
                    f"the disk is full: the model needs {(total - here) / 1e6:.1f} MB and "
                    f"{_SPARE_BYTES / 1e6:.1f} MB are kept for the outbox, but only "
                    f"{self._store.free_bytes() / 1e6:.1f} MB are free"
                )
            done = 0
            for blob in missing:
                self._fetch_blob(blob, done, total)
                done += blob.size
            return manifest

    def _partial(self, blob: Descriptor) -> Path:
        return self._store.partials / blob.digest.removeprefix("sha256:")

    def _again(self, action: Callable[[], bool], what: str) -> None:
        """Repeat `action` until it returns true, with full jitter between attempts."""
        backoff = Backoff(self._retry)
        while True:
            if self._stop.is_set():
                raise Canceled
            try:
                if action():
                    return
                backoff.succeeded()
                continue
            except (httpx.HTTPError, httpx.StreamError, OSError, _Retryable) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise FetchError(f"cannot store {what}: {explain(error)}") from error
                self.retries += 1
                wait = max(backoff.failed(), getattr(error, "wait_s", 0.0))
                reason = cause_of(error)
                if time.monotonic() + wait > self._deadline:
                    raise FetchError(f"{what} could not be fetched: {reason}") from error
                log.warning("%s: %s; next attempt in %.1f s", what, reason, wait)
                self._stop.wait(wait)

    def _fetch_manifest(self, digest: str) -> Manifest:
        content = bytearray()

        def action() -> bool:
            content.clear()
            headers = {"Accept": oci.MANIFEST_TYPE}
            with self._client.stream("GET", f"{self._base}/manifests/{digest}", headers=headers) as response:
                _check_status(response, (200,))
                for chunk in response.iter_bytes(_CHUNK):
                    content.extend(chunk)
                    if len(content) > MAX_MANIFEST_BYTES:
                        raise TrustError(f"the manifest is longer than {MAX_MANIFEST_BYTES} bytes")
            if oci.digest_of(bytes(content)) != digest:
                raise _Retryable("the manifest has another digest")
            return True

        self._again(action, f"manifest {digest[:19]}…")
        try:
            manifest = oci.parse_manifest(bytes(content))
        except ArtifactError as error:
            raise TrustError(str(error)) from error
        self._store.add_manifest(digest, bytes(content))
        return manifest

    def _fetch_blob(self, blob: Descriptor, done: int, total: int) -> None:
        what = f"{blob.title or 'blob'} {blob.digest[:19]}…"
        mismatches = 0

        def action() -> bool:
            nonlocal mismatches
            partial = self._partial(blob)
            have = partial.stat().st_size if partial.is_file() else 0
            if have > blob.size:
                self._restart(blob)
                have = 0
            if have < blob.size:
                self._transfer(blob, have, lambda now: self._on_progress(done + now, total))
                return False
            if not blob.size:
                partial.touch()
            if hash_file(partial) != blob.digest:
                self._restart(blob)
                mismatches += 1
                if mismatches >= 3:
                    raise TrustError(f"{what}: the registry's content had another digest three times")
                raise _Retryable("the content has another digest")
            self._store.add_blob(blob, partial)
            self._etag_file(blob).unlink(missing_ok=True)
            return True

        self._again(action, what)

    def _transfer(self, blob: Descriptor, have: int, progress: Callable[[int], None]) -> None:
        """Append what the registry sends from offset `have`; a short body extends the partial file."""
        headers = {"Accept-Encoding": "identity"}
        etag = self._etag(blob)
        if have:
            headers["Range"] = f"bytes={have}-"
            if etag:
                headers["If-Match"] = etag
        with self._client.stream("GET", f"{self._base}/blobs/{blob.digest}", headers=headers) as response:
            if have and response.status_code in (412, 416):
                self._restart(blob)
                raise _Retryable(f"the registry cannot resume from byte {have}: starting over")
            _check_status(response, (200, 206) if have else (200,))
            if response.status_code == 206:
                _check_range(response, have, blob.size)
                mode = "ab"
            else:
                mode, have = "wb", 0
            try:
                _check_length(response, blob.size - have)
            except _WrongSize as error:
                self._wrong_sizes += 1
                if self._wrong_sizes >= _MAX_WRONG_SIZES:
                    raise TrustError(f"{blob.title or 'blob'}: {error}, repeatedly") from error
                raise
            self._wrong_sizes = 0
            self._store_etag(blob, response.headers.get("etag"))
            with self._partial(blob).open(mode) as file:
                for chunk in response.iter_bytes(_CHUNK):
                    if self._stop.is_set():
                        raise Canceled
                    if have + len(chunk) > blob.size:
                        raise _Retryable(f"the registry sends more than the {blob.size} bytes promised")
                    file.write(chunk)
                    have += len(chunk)
                    self.transferred += len(chunk)
                    progress(have)
        if have < blob.size:
            raise _Retryable(f"the body ended after {have} of {blob.size} bytes")

    def _restart(self, blob: Descriptor) -> None:
        self._partial(blob).unlink(missing_ok=True)
        self._etag_file(blob).unlink(missing_ok=True)

    def _etag_file(self, blob: Descriptor) -> Path:
        return self._partial(blob).with_suffix(".etag")

    def _etag(self, blob: Descriptor) -> str | None:
        try:
            value = json.loads(self._etag_file(blob).read_bytes())
        except (OSError, ValueError):
            return None
        return value if isinstance(value, str) else None

    def _store_etag(self, blob: Descriptor, etag: str | None) -> None:
        # Only a strong tag guarantees identical bytes.
        if etag and not etag.startswith("W/"):
            self._etag_file(blob).write_text(json.dumps(etag))


class Fetchers:
    """Makes the fetcher of an update; only the registry of the enrolment gets its token."""

    def __init__(
        self,
        store: ModelStore,
        access: RegistryAccess | None,
        timeout_s: float,
        make_room: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._store, self._access, self._make_room = store, access, make_room
        self._retry = replace(RETRY, total_s=timeout_s)

    def __call__(
        self, document: UpdateDocument, stop: threading.Event, progress: Callable[[int, int], None]
    ) -> Fetcher:
        """Return a fetcher from the update's registry."""
        access = self._access
        same = access is not None and access.url.rstrip("/") == document.registry.rstrip("/")
        token = access.token if access is not None and same else None
        return Fetcher(
            self._store, document.registry, document.repository, token, stop, self._retry, progress,
            make_room=self._make_room,
        )  # fmt: skip


def _check_status(response: httpx.Response, wanted: tuple[int, ...]) -> None:
    status = response.status_code
    if status in wanted:
        return
    if status in _GIVE_UP:
        raise FetchError(f"the registry answered {status} for {response.request.url.path}")
    after = response.headers.get("retry-after", "")
    raise _Retryable(f"the registry answered {status}", min(300.0, float(after)) if after.isdigit() else 0.0)


def _check_range(response: httpx.Response, have: int, size: int) -> None:
    text = response.headers.get("content-range", "")
    match = _RANGE.fullmatch(text)
    if not match or int(match[1]) != have or int(match[2]) != size - 1 or match[3] not in ("*", str(size)):
        raise _Retryable(f"asked for bytes {have}-{size - 1}/{size}, the registry sent {text!r}")


def _check_length(response: httpx.Response, left: int) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _Retryable("the registry encoded the body although the request excluded that")
    length = response.headers.get("content-length")
    if length is not None and (not length.isdigit() or int(length) != left):
        raise _WrongSize(f"the registry announces {length} bytes where {left} are left")
