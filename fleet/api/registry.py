"""The OCI distribution API under `/v2/`: pull, push, list, delete, referrers.

One route takes every path below `/v2/` because repository names contain slashes; the end of the path selects the
handler.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import CancelScope, to_thread
from sqlalchemy import delete, select
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from edgec.fleet.access.identity import Identity
from edgec.fleet.audit.log import audit
from edgec.fleet.registry.blobs import BlobStore, DigestMismatch, OffsetMismatch, StoreAway, UnknownUpload
from edgec.fleet.registry.errors import (
    RegistryError,
    blob_unknown,
    check_digest,
    check_repository,
    manifest_unknown,
)
from edgec.fleet.registry.manifests import (
    MAX_MANIFEST,
    OCI_INDEX,
    delete_manifest,
    find_manifest,
    put_manifest,
)
from edgec.fleet.rollouts.usage import needed_for
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Manifest, ManifestBlob, ModelVersion, RepositoryBlob, Tag

Handler = Callable[[Request, str, str], Awaitable[Response]]
_PATH = re.compile(r"(?P<name>.+)/(?P<kind>manifests|blobs/uploads|blobs|tags|referrers)/(?P<rest>[^/]*)")
_RANGE = re.compile(r"(\d+)-(\d+)")


class Registry:
    """Answers requests below `/v2/` for one store."""

    def __init__(self, database: Database, blobs: BlobStore, max_upload: int) -> None:
        self._database = database
        self._blobs = blobs
        self._max_upload = max_upload

    async def handle(self, request: Request, path: str, identity: Identity) -> Response:
        """Handle one request; errors become responses as the specification defines them."""
        try:
            match = _PATH.fullmatch(path)
            if match is None:
                raise RegistryError(404, "NAME_UNKNOWN", f"{path!r} is not a path of the distribution API")
            name = check_repository(match["name"])
            self._authorise(identity, name, request.method)
            if source := request.query_params.get("from"):
                self._authorise(identity, source, "GET")
            request.state.actor = identity.name
            handler = self._handler(match["kind"], match["rest"], request.method)
            return await handler(request, name, match["rest"])
        except RegistryError as error:
            return error.response()
        except StoreAway as error:
            away = f"blobs are unavailable at the moment: {error.strerror}"
            return RegistryError(503, "UNAVAILABLE", away, headers={"Retry-After": "5"}).response()

    def _handler(self, kind: str, rest: str, method: str) -> Handler:
        table: dict[str, Handler]
        if kind == "blobs/uploads" and not rest:
            table = {"POST": self._start}
        elif kind == "blobs/uploads":
            table = {
                "GET": self._progress,
                "PATCH": self._append,
                "PUT": self._finish,
                "DELETE": self._cancel,
            }
        else:
            tables: dict[str, dict[str, Handler]] = {
                "manifests": {
                    "GET": self._get_manifest,
                    "HEAD": self._get_manifest,
                    "PUT": self._put_manifest,
                    "DELETE": self._delete_manifest,
                },
                "blobs": {"GET": self._get_blob, "HEAD": self._get_blob, "DELETE": self._delete_blob},
                "tags": {"GET": self._tags},
                "referrers": {"GET": self._referrers},
            }
            table = tables[kind]
        if method not in table:
            raise RegistryError(
                405, "UNSUPPORTED", f"{method} is not possible here", headers={"Allow": ", ".join(table)}
            )
        return table[method]

    @staticmethod
    def _authorise(identity: Identity, name: str, method: str) -> None:
        if not identity.may_use_repository(name, write=method not in ("GET", "HEAD")):
            raise RegistryError(403, "DENIED", f"{identity.name} has no access to {name} for {method}")

    # Pull

    async def _get_manifest(self, request: Request, name: str, reference: str) -> Response:
        def load() -> Manifest | None:
            with self._database.reading() as session:
                return find_manifest(session, name, reference)

        manifest = await to_thread.run_sync(load)
        if manifest is None:
            raise manifest_unknown(reference)
        headers = {
            "Docker-Content-Digest": manifest.digest,
            "ETag": f'"{manifest.digest}"',
            "Content-Length": str(len(manifest.content)),
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers={"ETag": headers["ETag"]})
        content = b"" if request.method == "HEAD" else manifest.content
        return Response(content, headers=headers, media_type=manifest.media_type)

    async def _get_blob(self, request: Request, name: str, digest: str) -> Response:
        check_digest(digest)

        def load() -> bool:
            with self._database.reading() as session:
                return session.get(RepositoryBlob, (name, digest)) is not None

        blob = await to_thread.run_sync(self._blobs.find, digest) if await to_thread.run_sync(load) else None
        if blob is None:
            raise blob_unknown(digest)
        etag = f'"{digest}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"ETag": etag})
        headers = {"Docker-Content-Digest": digest, "ETag": etag, "Accept-Ranges": "bytes"}
        return await to_thread.run_sync(self._blobs.respond, digest, blob.size, request, headers)

    async def _tags(self, request: Request, name: str, rest: str) -> Response:
        if rest != "list":
            raise RegistryError(404, "NAME_UNKNOWN", "did you mean tags/list?")
        limit = _page_size(request)
        last = request.query_params.get("last", "")

        def load() -> tuple[list[str], bool]:
            with self._database.reading() as session:
                query = select(Tag.name).where(Tag.repository == name, Tag.name > last).order_by(Tag.name)
                known = session.scalar(select(Manifest.id).filter_by(repository=name).limit(1)) is not None
                return list(session.scalars(query.limit(limit + 1 if limit else 1))), known

        tags, known = await to_thread.run_sync(load)
        if not known:
            raise RegistryError(404, "NAME_UNKNOWN", f"there is no repository {name}")
        headers = {}
        if limit and len(tags) > limit:
            headers["Link"] = f'</v2/{name}/tags/list?n={limit}&last={tags[limit - 1]}>; rel="next"'
        return JSONResponse({"name": name, "tags": tags[:limit]}, headers=headers)

    async def _referrers(self, request: Request, name: str, digest: str) -> Response:
        check_digest(digest)
        wanted = request.query_params.get("artifactType")

        def load() -> list[Manifest]:
            with self._database.reading() as session:
                return list(session.scalars(select(Manifest).filter_by(repository=name, subject=digest)))

        found = [item for item in await to_thread.run_sync(load) if wanted in (None, item.artifact_type)]
        entries: list[dict[str, Any]] = [
            {
                "mediaType": item.media_type,
                "digest": item.digest,
                "size": len(item.content),
                "artifactType": item.artifact_type,
                "annotations": item.annotations,
            }
            for item in found
        ]
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        headers = {"OCI-Filters-Applied": "artifactType"} if wanted else {}
        return Response(json.dumps(body), headers=headers, media_type=OCI_INDEX)

    # Push

    async def _start(self, request: Request, name: str, _rest: str) -> Response:
        mount, source = request.query_params.get("mount"), request.query_params.get("from")
        if mount and source:
            digest = check_digest(mount)
            if await to_thread.run_sync(self._mount, name, digest, source):
                return self._created(f"/v2/{name}/blobs/{digest}", digest)
        upload = await to_thread.run_sync(self._blobs.start_upload)
        if wanted := request.query_params.get("digest"):
            digest = check_digest(wanted)
            return await self._receive_and_finish(request, name, upload, digest, 0)
        return self._accepted(name, upload, 0)

    def _mount(self, name: str, digest: str, source: str) -> bool:
        with self._database.writing() as session:
            held = session.get(RepositoryBlob, (source, digest))
            if held is None or self._blobs.find(digest) is None:
                return False
            session.merge(RepositoryBlob(repository=name, digest=digest, size=held.size))
            return True

    async def _progress(self, _request: Request, name: str, upload: str) -> Response:
        size = await to_thread.run_sync(self._size, upload)
        return self._accepted(name, upload, size, status=204)

    async def _append(self, request: Request, name: str, upload: str) -> Response:
        offset = None
        if text := request.headers.get("content-range"):
            match = _RANGE.fullmatch(text.removeprefix("bytes ").partition("/")[0])
            if match is None:
                raise RegistryError(400, "BLOB_UPLOAD_INVALID", "Content-Range must look like 0-1023")
            offset = int(match[1])
        await self._receive(request, name, upload, offset)
        return self._accepted(name, upload, await to_thread.run_sync(self._size, upload))

    async def _finish(self, request: Request, name: str, upload: str) -> Response:
        digest = check_digest(request.query_params.get("digest", ""))
        offset = None
        if match := _RANGE.fullmatch(request.headers.get("content-range", "")):
            offset = int(match[1])
        return await self._receive_and_finish(request, name, upload, digest, offset)

    async def _receive_and_finish(
        self, request: Request, name: str, upload: str, digest: str, offset: int | None
    ) -> Response:
        known = await self._receive(request, name, upload, offset)

        def finish() -> None:
            size = self._blobs.finish_upload(upload, digest, known).size
            with self._database.writing() as session:
                session.merge(RepositoryBlob(repository=name, digest=digest, size=size))

        try:
            await to_thread.run_sync(finish)
        except DigestMismatch as error:
            raise RegistryError(400, "DIGEST_INVALID", str(error)) from error
        except UnknownUpload as error:
            raise RegistryError(404, "BLOB_UPLOAD_UNKNOWN", str(error)) from error
        return self._created(f"/v2/{name}/blobs/{digest}", digest)

    async def _receive(self, request: Request, name: str, upload: str, offset: int | None) -> str | None:
        """Append the request's body; returns its digest if the upload began with it.

        When a client disconnects, what arrived is kept: the file's length tells where to resume.
        """
        size = await to_thread.run_sync(self._size, upload)
        try:
            stream = await to_thread.run_sync(self._blobs.open_upload, upload, offset)
        except OffsetMismatch as error:
            headers = _upload_headers(name, upload, error.size)
            raise RegistryError(416, "BLOB_UPLOAD_INVALID", str(error), headers=headers) from error
        hasher = hashlib.sha256() if size == 0 else None
        try:
            try:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._max_upload:
                        raise RegistryError(
                            413, "SIZE_INVALID", f"a blob may have {self._max_upload} bytes here"
                        )
                    await to_thread.run_sync(stream.write, chunk)
                    if hasher:
                        hasher.update(chunk)
            finally:
                with CancelScope(shield=True):
                    await to_thread.run_sync(stream.close)
        except ClientDisconnect as gone:
            raise RegistryError(400, "BLOB_UPLOAD_INVALID", "the client went away") from gone
        except OSError as error:
            raise RegistryError(
                507, "BLOB_UPLOAD_INVALID", f"cannot store the blob: {error.strerror}"
            ) from error
        return f"sha256:{hasher.hexdigest()}" if hasher else None

    async def _cancel(self, _request: Request, _name: str, upload: str) -> Response:
        await to_thread.run_sync(self._size, upload)
        await to_thread.run_sync(self._blobs.cancel_upload, upload)
        return Response(status_code=204)

    async def _put_manifest(self, request: Request, name: str, reference: str) -> Response:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > MAX_MANIFEST:
                raise RegistryError(413, "SIZE_INVALID", f"a manifest may have {MAX_MANIFEST} bytes")
        kind = request.headers.get("content-type", "").partition(";")[0].strip()

        def store() -> Manifest:
            with self._database.writing() as session:
                stored = put_manifest(session, self._blobs, name, reference, bytes(content), kind)
                audit(
                    session, request.state.actor, "registry.push", f"{name}:{reference}", digest=stored.digest
                )
                return stored

        manifest = await to_thread.run_sync(store)
        answer = self._created(f"/v2/{name}/manifests/{reference}", manifest.digest)
        if manifest.subject:
            answer.headers["OCI-Subject"] = manifest.subject
        return answer

    # Delete

    async def _delete_manifest(self, request: Request, name: str, reference: str) -> Response:
        def remove() -> bool:
            with self._database.writing() as session:
                rows = list(
                    session.scalars(select(ModelVersion).filter_by(repository=name, digest=reference))
                )
                if rows and (needs := needed_for(session, rows)):
                    raise RegistryError(409, "DENIED", f"{reference} cannot be deleted: {'; '.join(needs)}")
                found = delete_manifest(session, name, reference)
                if found:
                    audit(session, request.state.actor, "registry.delete", f"{name}:{reference}")
                return found

        if not await to_thread.run_sync(remove):
            raise manifest_unknown(reference)
        return Response(status_code=202)

    async def _delete_blob(self, request: Request, name: str, digest: str) -> Response:
        """Unlink a blob from the repository; the file is left to the garbage collection, as other repositories
        may hold it."""
        check_digest(digest)

        def remove() -> int:
            with self._database.writing() as session:
                used = session.scalar(
                    select(Manifest.digest)
                    .join(ManifestBlob, ManifestBlob.manifest_id == Manifest.id)
                    .where(Manifest.repository == name, ManifestBlob.digest == digest)
                )
                if used:
                    raise RegistryError(
                        405, "UNSUPPORTED", f"the manifest {used} needs this blob; delete that first"
                    )
                gone = session.execute(delete(RepositoryBlob).filter_by(repository=name, digest=digest))
                if number := int(gone.rowcount):  # type: ignore[attr-defined]
                    audit(session, request.state.actor, "registry.delete", f"{name}@{digest}")
                return number

        if not await to_thread.run_sync(remove):
            raise blob_unknown(digest)
        return Response(status_code=202)

    # Answers

    def _size(self, upload: str) -> int:
        try:
            return self._blobs.upload_size(upload)
        except UnknownUpload as error:
            raise RegistryError(404, "BLOB_UPLOAD_UNKNOWN", str(error)) from error

    @staticmethod
    def _accepted(name: str, upload: str, size: int, status: int = 202) -> Response:
        return Response(status_code=status, headers=_upload_headers(name, upload, size))

    @staticmethod
    def _created(location: str, digest: str) -> Response:
        return Response(status_code=201, headers={"Location": location, "Docker-Content-Digest": digest})


def _upload_headers(name: str, upload: str, size: int) -> dict[str, str]:
    return {
        "Location": f"/v2/{name}/blobs/uploads/{upload}",
        "Range": f"0-{max(size - 1, 0)}",
        "Docker-Upload-UUID": upload,
        "OCI-Chunk-Min-Length": "1",
    }


def _page_size(request: Request) -> int:
    text = request.query_params.get("n", "1000")
    if not text.isdigit() or int(text) > 10_000:
        raise RegistryError(400, "UNSUPPORTED", "n must be a number up to 10000")
    return int(text)
