"""Garbage collection of the registry: blobs that no manifest needs, and stale uploads."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select

from edgec.fleet.registry.blobs import BlobStore
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import ManifestBlob, RepositoryBlob

GRACE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Collected:
    """The result of a garbage collection.

    Attributes:
        blobs: how many were deleted.
        bytes: how many were freed.
        uploads: how many were canceled.
    """

    blobs: int
    bytes: int
    uploads: int


def collect_garbage(database: Database, blobs: BlobStore, now: float, grace_s: float = GRACE_S) -> Collected:
    """Remove blobs that no manifest needs and that are older than `grace_s`: a push in progress has no manifest yet.

    The rows go first, in one transaction that sees every manifest. If the process dies before the files are gone,
    the next run deletes them.
    """
    with database.writing() as session:
        needed = select(ManifestBlob.digest)
        session.execute(
            delete(RepositoryBlob).where(
                RepositoryBlob.created_at < now - grace_s, RepositoryBlob.digest.not_in(needed)
            )
        )
        held = set(session.scalars(select(RepositoryBlob.digest).distinct()))
        removed = freed = 0
        # Within the transaction: a concurrent push that re-links one of these waits for its end.
        for digest, changed, size in list(blobs.digests()):
            if digest not in held and changed < now - grace_s:
                blobs.delete(digest)
                removed, freed = removed + 1, freed + size
    stale = blobs.stale_uploads(now - grace_s)
    for name in stale:
        blobs.cancel_upload(name)
    return Collected(removed, freed, len(stale))
