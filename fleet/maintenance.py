"""What runs now and then: retention, roll-ups, garbage collection of blobs and stale uploads."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.exc import DBAPIError

from edgec.fleet.registry.blobs import BlobStore
from edgec.fleet.settings import Settings
from edgec.fleet.store.bulk import insert_new
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Detection, ManifestBlob, RepositoryBlob, RollUp, Telemetry, WebSession
from edgec.fleet.trust.repository import Repository

PACE_S = 300.0
GRACE_S = 24 * 3600.0
PORTION = 20_000
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a garbage collection found: blobs removed and bytes freed."""

    blobs: int
    bytes: int
    uploads: int


class Upkeep:
    """Keeps the database and the blob folder from growing without end."""

    def __init__(self, database: Database, blobs: BlobStore, settings: Settings, trust: Repository) -> None:
        self._database = database
        self._blobs = blobs
        self._settings = settings
        self._trust = trust
        self._stop = threading.Event()

    def run(self) -> None:
        """Work at a slow pace until :meth:`stop`."""
        while True:
            try:
                self._trust.refresh()
                self.retain(time.time())
                self.collect_garbage(time.time())
            except DBAPIError as error:
                log.warning("upkeep waits for the database: %s", error.orig)
            except OSError as error:
                log.warning("upkeep tries again in %g s: %s", PACE_S, error)
            if self._stop.wait(PACE_S):
                return

    def stop(self) -> None:
        """End :meth:`run`."""
        self._stop.set()

    def retain(self, now: float) -> None:
        """Roll up full hours of telemetry past its retention, then delete it; drop old detections."""
        hour = int((now - self._settings.telemetry_kept_s) // 3600)
        with self._database.writing() as session:
            bucket = func.floor(Telemetry.at / 3600)
            rows = session.execute(
                select(
                    Telemetry.device_id,
                    Telemetry.stream,
                    bucket.label("hour"),
                    Telemetry.version,
                    func.count(),
                    func.avg(Telemetry.fps),
                    func.avg(Telemetry.latency_ms),
                    func.max(Telemetry.latency_ms),
                )
                .where(Telemetry.at < hour * 3600)
                .group_by(Telemetry.device_id, Telemetry.stream, bucket, Telemetry.version)
            )
            names = (
                "device_id",
                "stream",
                "hour",
                "version",
                "reports",
                "fps_mean",
                "latency_ms_mean",
                "latency_ms_max",
            )
            insert_new(
                session, RollUp, [dict(zip(names, row, strict=True)) | {"hour": int(row[2])} for row in rows]
            )
            session.execute(delete(Telemetry).where(Telemetry.at < hour * 3600))
            session.execute(delete(WebSession).where(WebSession.expires_at < now))
        while not self._stop.is_set():
            with self._database.writing() as session:
                old = (
                    select(Detection.id)
                    .where(Detection.at < now - self._settings.events_kept_s)
                    .limit(PORTION)
                )
                gone = session.execute(delete(Detection).where(Detection.id.in_(old)))
                if gone.rowcount < PORTION:  # type: ignore[attr-defined]
                    return

    def collect_garbage(self, now: float, grace_s: float = GRACE_S) -> Collected:
        """Remove blobs that no manifest needs and that are older than ``grace_s``: a push in progress has
        no manifest yet.

        The rows go first, in one transaction that sees every manifest; a file without a row is removed by
        the next run if the process dies in between.
        """
        with self._database.writing() as session:
            needed = select(ManifestBlob.digest)
            session.execute(
                delete(RepositoryBlob).where(
                    RepositoryBlob.created_at < now - grace_s, RepositoryBlob.digest.not_in(needed)
                )
            )
            held = set(session.scalars(select(RepositoryBlob.digest).distinct()))
            blobs = freed = 0
            # Within the transaction: a push that re-links one of these waits for it.
            for digest, changed, size in list(self._blobs.digests()):
                if digest not in held and changed < now - grace_s:
                    self._blobs.delete(digest)
                    blobs, freed = blobs + 1, freed + size
        stale = self._blobs.stale_uploads(now - grace_s)
        for name in stale:
            self._blobs.cancel_upload(name)
        return Collected(blobs, freed, len(stale))
