"""Manifests: parsed, checked against the blobs they reference, and recorded as model versions."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from edgec.fleet.registry.blobs import BlobStore
from edgec.fleet.registry.errors import DIGEST, TAG, RegistryError, check_digest
from edgec.fleet.registry.versions import check_new, retire, taken
from edgec.fleet.store.tables import Manifest, ManifestBlob, ModelVersion, RepositoryBlob, Tag

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
ARTIFACT_TYPE = "application/vnd.edgec.artifact.v1"
EVIDENCE_TYPE = "application/vnd.edgec.evidence.v1+json"
REPORT_TYPE = "application/vnd.edgec.report.v1+html"
MODELS = "models/"
MAX_MANIFEST = 4 << 20


class Descriptor(BaseModel):
    """A manifest's description of a blob."""

    model_config = ConfigDict(extra="ignore")
    mediaType: str = Field(max_length=255)
    digest: str = Field(pattern=DIGEST.pattern + "$")
    size: int = Field(ge=0)
    annotations: dict[str, str] = Field(default_factory=dict)


class ManifestBody(BaseModel):
    """An image manifest or an index; an index fills only `manifests`."""

    model_config = ConfigDict(extra="ignore")
    schemaVersion: int
    mediaType: str = ""
    artifactType: str = ""
    config: Descriptor | None = None
    layers: list[Descriptor] = Field(default_factory=list)
    manifests: list[Descriptor] = Field(default_factory=list)
    subject: Descriptor | None = None
    annotations: dict[str, str] = Field(default_factory=dict)


def parse_manifest(content: bytes, content_type: str) -> ManifestBody:
    """Parse a manifest.

    Raises:
        RegistryError: MANIFEST_INVALID; the message says which field.
    """
    try:
        body = ManifestBody.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise RegistryError(400, "MANIFEST_INVALID", f"{where}: {first['msg']}") from error
    if body.schemaVersion != 2:
        raise RegistryError(400, "MANIFEST_INVALID", "schemaVersion must be 2")
    kind = body.mediaType or content_type
    if body.mediaType and content_type and body.mediaType != content_type:
        raise RegistryError(
            400, "MANIFEST_INVALID", f"mediaType is {body.mediaType} but it was sent as {content_type}"
        )
    if kind in (OCI_MANIFEST, DOCKER_MANIFEST) and body.config is None:
        raise RegistryError(400, "MANIFEST_INVALID", "an image manifest needs a config")
    if kind not in (OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_INDEX):
        raise RegistryError(
            400, "MANIFEST_INVALID", f"{kind or 'a manifest without a type'} is not stored here"
        )
    body.mediaType = kind
    return body


def put_manifest(
    session: Session, blobs: BlobStore, repository: str, reference: str, content: bytes, content_type: str
) -> Manifest:
    """Store a manifest under its digest, and under a tag when `reference` is one.

    Raises:
        RegistryError: it is malformed, has another digest than `reference`, references a missing blob, or its version
            is another artifact already.
    """
    body = parse_manifest(content, content_type)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if ":" in reference and check_digest(reference) != digest:
        raise RegistryError(400, "DIGEST_INVALID", f"the manifest's digest is {digest}, not {reference}")
    if ":" not in reference and not TAG.fullmatch(reference):
        raise RegistryError(400, "MANIFEST_INVALID", f"{reference!r} is not a valid tag")
    needed = _check_references(session, repository, body)
    manifest = session.scalar(select(Manifest).filter_by(repository=repository, digest=digest))
    if manifest is None:
        config_type = body.config.mediaType if body.config else ""
        manifest = Manifest(
            repository=repository,
            digest=digest,
            media_type=body.mediaType,
            artifact_type=body.artifactType or config_type,
            subject=body.subject.digest if body.subject else "",
            content=content,
            annotations=dict(body.annotations),
        )
        session.add(manifest)
        session.flush()
        session.add_all(ManifestBlob(manifest_id=manifest.id, digest=name) for name in needed)
    if ":" not in reference:
        _set_tag(session, repository, reference, digest)
    if body.artifactType == ARTIFACT_TYPE and repository.startswith(MODELS):
        _record_version(session, blobs, repository, digest, body)
    return manifest


def _set_tag(session: Session, repository: str, name: str, digest: str) -> None:
    """Let a tag name a manifest; one that names a version of a model keeps to it."""
    tag = session.get(Tag, (repository, name))
    if tag is not None and tag.digest != digest:
        version = session.scalar(
            select(ModelVersion).filter_by(repository=repository, digest=tag.digest).limit(1)
        )
        if version is not None and name == f"{version.version}-{version.target}":
            raise taken(version.model, version.version, version.target, tag.digest)
    session.merge(Tag(repository=repository, name=name, digest=digest))


def _check_references(session: Session, repository: str, body: ManifestBody) -> set[str]:
    blobs = [*([body.config] if body.config else []), *body.layers]
    wanted = {item.digest for item in blobs}
    known = dict(
        session.execute(
            select(RepositoryBlob.digest, RepositoryBlob.size).where(
                RepositoryBlob.repository == repository, RepositoryBlob.digest.in_(wanted)
            )
        ).all()
    )
    for item in blobs:
        if item.digest not in known:
            raise RegistryError(
                404, "MANIFEST_BLOB_UNKNOWN", f"push the blob {item.digest} first", detail=item.digest
            )
        if known[item.digest] != item.size:
            raise RegistryError(
                400, "SIZE_INVALID", f"{item.digest} has {known[item.digest]} bytes, not {item.size}"
            )
    nested = {item.digest for item in body.manifests}
    found = set(
        session.scalars(
            select(Manifest.digest).where(Manifest.repository == repository, Manifest.digest.in_(nested))
        )
    )
    if missing := sorted(nested - found):
        raise RegistryError(
            404, "MANIFEST_BLOB_UNKNOWN", f"push the manifest {missing[0]} first", detail=missing[0]
        )
    return wanted | nested


def _record_version(
    session: Session, blobs: BlobStore, repository: str, digest: str, body: ManifestBody
) -> None:
    if body.config is None:
        return
    config = _json_blob(blobs, body.config)
    by_type = {layer.mediaType: layer for layer in body.layers}
    evidence = by_type.get(EVIDENCE_TYPE)
    report = by_type.get(REPORT_TYPE)
    key = {
        "model": repository.removeprefix(MODELS),
        "version": str(config.get("version", ""))[:128],
        "target": str(config.get("target", ""))[:64],
    }
    if not key["version"] or not key["target"]:
        raise RegistryError(
            400, "MANIFEST_INVALID", "the config of an edgec artifact names its version and target"
        )
    if check_new(session, **key, digest=digest) is not None:
        return
    row = ModelVersion(**key, repository=repository, digest=digest)
    row.size = body.config.size + sum(layer.size for layer in body.layers)
    row.config = config
    row.evidence = _json_blob(blobs, evidence) if evidence else {}
    row.report_digest = report.digest if report else ""
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:  # another process has just stored this version
        raise taken(**key, what="another artifact") from error


def _json_blob(blobs: BlobStore, item: Descriptor) -> dict[str, Any]:
    if item.size > MAX_MANIFEST:
        raise RegistryError(400, "MANIFEST_INVALID", f"{item.mediaType} of {item.size} bytes is too long")
    try:
        value = json.loads(blobs.read(item.digest))
    except ValueError as error:
        raise RegistryError(400, "MANIFEST_INVALID", f"the {item.mediaType} blob is not JSON") from error
    if not isinstance(value, dict):
        raise RegistryError(400, "MANIFEST_INVALID", f"the {item.mediaType} blob is not a JSON object")
    return value


def find_manifest(session: Session, repository: str, reference: str) -> Manifest | None:
    """The manifest by tag or digest."""
    digest: str | None = reference
    if ":" not in reference:
        digest = session.scalar(select(Tag.digest).filter_by(repository=repository, name=reference))
    return (
        session.scalar(select(Manifest).filter_by(repository=repository, digest=digest)) if digest else None
    )


def delete_manifest(session: Session, repository: str, reference: str) -> bool:
    """Delete a tag, or a manifest with all its tags and its model versions; False if there was none."""
    if ":" not in reference:
        gone = session.execute(delete(Tag).filter_by(repository=repository, name=reference))
        return bool(gone.rowcount)  # type: ignore[attr-defined]
    manifest = session.scalar(select(Manifest).filter_by(repository=repository, digest=reference))
    if manifest is None:
        return False
    session.execute(delete(ManifestBlob).filter_by(manifest_id=manifest.id))
    session.execute(delete(Tag).filter_by(repository=repository, digest=reference))
    for row in session.scalars(select(ModelVersion).filter_by(repository=repository, digest=reference)):
        retire(session, row)
        session.delete(row)
    session.delete(manifest)
    return True
