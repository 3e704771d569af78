"""Blobs in a bucket of an S3-compatible store, with the guarantees of a folder, for processes that share nothing
else.

An upload is a multipart upload of the store. The bytes since its last complete part lie beside it as a small object,
so that everything acknowledged to the client survives the end of the process, and any process can resume it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from edgec.fleet.errors import FleetError
from edgec.fleet.registry.blobs import (
    UPLOAD_NAME,
    DigestMismatch,
    OffsetMismatch,
    StoreAway,
    StoredBlob,
    UnknownUpload,
    check_sha256,
)
from edgec.fleet.registry.ranges import requested_range
from edgec.fleet.registry.s3_errors import Absent, store_errors

PART = 8 << 20
"""Bytes per part; S3 accepts none below 5 MiB except the last, and at most 10,000 parts."""
PIECE = 1 << 20
COPY_WHOLE = 4 << 30
"""Objects up to this size are copied in one request."""
LINK_VALID_S = 900


@dataclass(slots=True)
class _Progress:
    """The state of an upload: its parts as the store lists them, and the bytes since."""

    id: str
    parts: list[dict[str, Any]]
    tail: bytes

    @property
    def size(self) -> int:
        return sum(int(part["Size"]) for part in self.parts) + len(self.tail)


class BlobBucket:
    """Blobs under `<prefix>blobs/sha256/ab/<digest>`, uploads under `<prefix>uploads/`.

    `client` is boto3's, which threads may share. With `redirect`, downloads are redirected to the store by a link
    that is valid for 15 minutes; else they pass through this process.
    """

    def __init__(self, client: Any, bucket: str, prefix: str = "", *, redirect: bool = False) -> None:  # noqa: ANN401
        self._client, self._bucket, self._redirect = client, bucket, redirect
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    @staticmethod
    def open(url: str, endpoint: str | None, *, redirect: bool) -> BlobBucket:
        """Open the bucket of `s3://bucket/prefix`; credentials and region come from the usual places of AWS's tools.

        Raises:
            FleetError: the library is missing, or the bucket cannot be used.
        """
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ModuleNotFoundError as error:
            raise FleetError("blobs in S3 need the extra: pip install 'edgec[s3]'") from error
        parts = urlsplit(url)
        # Newer checksums only where the operation requires them: many compatible stores do not support them.
        config = Config(
            connect_timeout=5, read_timeout=60, retries={"mode": "standard", "max_attempts": 3},
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if endpoint else {},
        )  # fmt: skip
        try:
            client = boto3.client("s3", endpoint_url=endpoint, config=config)
        except (BotoCoreError, ValueError) as error:
            raise FleetError(f"the S3 store cannot be used: {error}") from error
        store = BlobBucket(client, parts.netloc, parts.path, redirect=redirect)
        try:
            store.check()
        except StoreAway as error:
            raise FleetError(f"--blobs {url}: {error.strerror}") from error
        return store

    def within(self, prefix: str) -> BlobBucket:
        """A separate store below this one, under `prefix`."""
        return BlobBucket(self._client, self._bucket, self._prefix + prefix, redirect=self._redirect)

    def check(self) -> None:
        """Check that the bucket is available.

        Raises:
            StoreAway: the store does not answer, or denies access.
        """
        with store_errors():
            self._client.head_bucket(Bucket=self._bucket)

    def _key(self, digest: str) -> str:
        value = check_sha256(digest)
        return f"{self._prefix}blobs/sha256/{value[:2]}/{value}"

    def find(self, digest: str) -> StoredBlob | None:
        """The blob, or None."""
        size = self._size_of(self._key(digest))
        return None if size is None else StoredBlob(None, size)

    def _size_of(self, key: str) -> int | None:
        try:
            with store_errors():
                return int(self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"])
        except Absent:
            return None

    def _get(self, key: str) -> tuple[bytes, dict[str, str]] | None:
        try:
            with store_errors():
                found = self._client.get_object(Bucket=self._bucket, Key=key)
                return bytes(found["Body"].read()), dict(found["Metadata"])
        except Absent:
            return None

    def read(self, digest: str) -> bytes:
        """All bytes of a small blob.

        Raises:
            FileNotFoundError: there is none.
        """
        found = self._get(self._key(digest))
        if found is None:
            raise FileNotFoundError(digest)
        return found[0]

    def respond(self, digest: str, size: int, request: Request, headers: dict[str, str]) -> Response:
        """The response to a GET or HEAD: a whole blob, or the range requested."""
        first, last = requested_range(request, headers.get("ETag", ""), size)
        if first is None:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
        key = self._key(digest)
        if self._redirect and request.method == "GET":
            values = {"Bucket": self._bucket, "Key": key}
            with store_errors():
                link = self._client.generate_presigned_url("get_object", values, ExpiresIn=LINK_VALID_S)
            return RedirectResponse(link, 307, headers={"Docker-Content-Digest": digest})
        whole = last - first + 1 == size
        headers = headers | {"Content-Length": str(last - first + 1)}
        if not whole:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        status, kind = 200 if whole else 206, "application/octet-stream"
        if request.method == "HEAD" or size == 0:
            return Response(status_code=status, headers=headers, media_type=kind)
        with store_errors():
            body = self._client.get_object(
                Bucket=self._bucket, Key=key, **({} if whole else {"Range": f"bytes={first}-{last}"})
            )["Body"]
        return StreamingResponse(_pieces(body), status, headers=headers, media_type=kind)

    # Uploads

    def _upload_key(self, name: str, what: str) -> str:
        if not UPLOAD_NAME.fullmatch(name):
            raise UnknownUpload(f"there is no upload {name!r}")
        return f"{self._prefix}uploads/{name}/{what}"

    def start_upload(self) -> str:
        """Start an upload and return its name."""
        name = secrets.token_hex(16)
        with store_errors():
            made = self._client.create_multipart_upload(
                Bucket=self._bucket, Key=self._upload_key(name, "data")
            )
            self._client.put_object(
                Bucket=self._bucket, Key=self._upload_key(name, "id"), Body=made["UploadId"].encode()
            )
        return name

    def _progress(self, name: str) -> _Progress:
        found = self._get(self._upload_key(name, "id"))
        if found is None:
            raise UnknownUpload(f"there is no upload {name!r}")
        upload = found[0].decode()
        parts: list[dict[str, Any]] = []
        try:
            with store_errors():
                pages = self._client.get_paginator("list_parts").paginate(
                    Bucket=self._bucket, Key=self._upload_key(name, "data"), UploadId=upload
                )
                for page in pages:
                    parts += page.get("Parts", ())
        except Absent as error:
            # A crash came after the parts were joined and before the blob got its name.
            size = self._size_of(self._upload_key(name, "data"))
            if size is None:
                raise UnknownUpload(f"there is no upload {name!r}") from error
            return _Progress("", [{"Size": size}], b"")
        parts.sort(key=lambda part: int(part["PartNumber"]))
        tail = self._get(self._upload_key(name, "tail"))
        # A remainder that is followed by more parts is contained in the first of them.
        fits = tail is not None and tail[1].get("after") == str(len(parts))
        return _Progress(upload, parts, tail[0] if tail is not None and fits else b"")

    def upload_size(self, name: str) -> int:
        """How many bytes have arrived.

        Raises:
            UnknownUpload: there is no such upload.
        """
        return self._progress(name).size

    def open_upload(self, name: str, offset: int | None) -> _Writer:
        """Open an upload to append at `offset` (None: at its end).

        Raises:
            UnknownUpload: there is no such upload.
            OffsetMismatch: it ends elsewhere.
        """
        progress = self._progress(name)
        if (offset is not None and offset != progress.size) or not progress.id:
            raise OffsetMismatch(progress.size)
        return _Writer(self, name, progress)

    def send_part(self, name: str, upload: str, number: int, content: bytes) -> dict[str, Any]:
        """Upload a part, or overwrite it."""
        with store_errors():
            answer = self._client.upload_part(
                Bucket=self._bucket, Key=self._upload_key(name, "data"), UploadId=upload, PartNumber=number,
                Body=content,
            )  # fmt: skip
        return {"PartNumber": number, "ETag": answer["ETag"], "Size": len(content)}

    def keep_tail(self, name: str, content: bytes, after: int) -> None:
        """Store the remainder that is too small for a part, following the first `after` parts."""
        with store_errors():
            self._client.put_object(
                Bucket=self._bucket, Key=self._upload_key(name, "tail"), Body=content,
                Metadata={"after": str(after)},
            )  # fmt: skip

    def finish_upload(self, name: str, digest: str, known: str | None = None) -> StoredBlob:
        """Verify an upload against `digest` and turn it into a blob. `known` is its digest if the caller computed
        it.

        Raises:
            UnknownUpload: there is no such upload.
            DigestMismatch: the bytes differ; the upload is discarded.
        """
        progress, target = self._progress(name), self._key(digest)
        if not progress.parts:
            actual = f"sha256:{hashlib.sha256(progress.tail).hexdigest()}"
        else:
            self._put_together(name, progress)
            actual = known or self._digest_of(self._upload_key(name, "data"))
        if actual != digest:
            self.cancel_upload(name)
            raise DigestMismatch(f"the upload's digest is {actual}, not {digest}")
        with store_errors():
            if not progress.parts:
                self._client.put_object(Bucket=self._bucket, Key=target, Body=progress.tail)
            else:
                from boto3.s3.transfer import TransferConfig

                source = {"Bucket": self._bucket, "Key": self._upload_key(name, "data")}
                ways = TransferConfig(multipart_threshold=COPY_WHOLE, multipart_chunksize=1 << 30)
                self._client.copy(source, self._bucket, target, Config=ways)
        self.cancel_upload(name)
        return StoredBlob(None, progress.size)

    def _put_together(self, name: str, progress: _Progress) -> None:
        if not progress.id:
            return
        parts = list(progress.parts)
        if progress.tail:
            parts.append(self.send_part(name, progress.id, len(parts) + 1, progress.tail))
        chosen = [{"PartNumber": part["PartNumber"], "ETag": part["ETag"]} for part in parts]
        with store_errors():
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=self._upload_key(name, "data"), UploadId=progress.id,
                MultipartUpload={"Parts": chosen},
            )  # fmt: skip

    def _digest_of(self, key: str) -> str:
        hasher = hashlib.sha256()
        with store_errors():
            for piece in _pieces(self._client.get_object(Bucket=self._bucket, Key=key)["Body"]):
                hasher.update(piece)
        return f"sha256:{hasher.hexdigest()}"

    def put(self, content: bytes) -> str:
        """Store a small blob and return its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        with store_errors():
            self._client.put_object(Bucket=self._bucket, Key=self._key(digest), Body=content)
        return digest

    def cancel_upload(self, name: str) -> None:
        """Cancel an upload and delete what is left of it."""
        data = self._upload_key(name, "data")
        with store_errors():
            found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=data)
            for upload in found.get("Uploads", ()):
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
            # The id goes last: until then the upload exists, and canceling it can be repeated.
            for what in ("data", "tail", "id"):
                self._client.delete_object(Bucket=self._bucket, Key=self._upload_key(name, what))

    # Housekeeping

    def delete(self, digest: str) -> None:
        """Delete a blob, if it is there."""
        with store_errors():
            self._client.delete_object(Bucket=self._bucket, Key=self._key(digest))

    def _objects(self, prefix: str) -> Iterator[tuple[str, float, int]]:
        with store_errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    yield item["Key"], item["LastModified"].timestamp(), int(item["Size"])

    def digests(self) -> Iterator[tuple[str, float, int]]:
        """Iterate over all blobs: digest, time of last change, size."""
        for key, changed, size in self._objects("blobs/sha256/"):
            yield f"sha256:{key.rpartition('/')[2]}", changed, size

    def stale_uploads(self, before: float) -> list[str]:
        """Uploads not written to since `before`."""
        touched: dict[str, float] = {}
        for key, changed, _size in self._objects("uploads/"):
            name = key.split("/")[-2]
            touched[name] = max(touched.get(name, 0.0), changed)
        with store_errors():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=f"{self._prefix}uploads/"
            )
            for page in pages:
                for item in page.get("Uploads", ()):
                    name, begun = item["Key"].split("/")[-2], item["Initiated"].timestamp()
                    touched[name] = max(touched.get(name, 0.0), begun)
        return [name for name, at in touched.items() if at < before and UPLOAD_NAME.fullmatch(name)]


class _Writer:
    """An open upload: complete parts are sent at once, the remainder when it is closed."""

    def __init__(self, store: BlobBucket, name: str, progress: _Progress) -> None:
        self.store_errors, self._name, self._upload = store, name, progress.id
        self._sent = len(progress.parts)
        self._rest = bytearray(progress.tail)

    def write(self, chunk: bytes) -> int:
        """Append."""
        self._rest += chunk
        while len(self._rest) >= PART:
            self.store_errors.send_part(self._name, self._upload, self._sent + 1, bytes(self._rest[:PART]))
            del self._rest[:PART]
            self._sent += 1
        return len(chunk)

    def close(self) -> None:
        """Store the remainder that is too small for a part."""
        self.store_errors.keep_tail(self._name, bytes(self._rest), self._sent)


def _pieces(body: Any) -> Iterator[bytes]:  # noqa: ANN401 - botocore's stream
    try:
        with store_errors():
            yield from body.iter_chunks(PIECE)
    finally:
        body.close()
