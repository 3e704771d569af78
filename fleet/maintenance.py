"""Work that is due now and then: fresh TUF timestamps, retention and garbage collection."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from edgec.fleet.access.auth import Auth
from edgec.fleet.registry.blobs import BlobStore
from edgec.fleet.registry.garbage import GRACE_S, Collected, collect_garbage
from edgec.fleet.settings import Settings
from edgec.fleet.store.database import Database
from edgec.fleet.store.files import mend_folder
from edgec.fleet.telemetry.retention import expire_detections, roll_up
from edgec.fleet.trust.repository import Repository

PACE_S = 300.0
COPIED = ("ca/ca.*", "tuf/online.pem", "tuf/metadata/*.json")
"""What nothing but its copy could restore: the database and the blobs have checksums and backups of their own."""
log = logging.getLogger(__name__)


def mend_files(data: Path) -> list[Path]:
    """Restore files of the data folder that were altered from their copies; returns them."""
    return mend_folder(data, COPIED)


class Maintenance:
    """Keeps the database and the blob store from growing without end, and the TUF metadata from expiring."""

    def __init__(
        self, database: Database, blobs: BlobStore, settings: Settings, trust: Repository, auth: Auth
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._settings = settings
        self._trust = trust
        self._auth = auth
        self._stop = threading.Event()

    def run(self) -> None:
        """Work every few minutes until `stop`."""
        while True:
            try:
                mend_files(self._settings.data)
                self._trust.refresh()
                self.retain(time.time())
                self.collect_garbage(time.time())
            except DBAPIError as error:
                log.warning("maintenance waits for the database: %s", error.orig)
            except OSError as error:
                log.warning("maintenance tries again in %g s: %s", PACE_S, error)
            if self._stop.wait(PACE_S):
                return

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    def retain(self, now: float) -> None:
        """Apply the retention periods of the settings at the Unix time `now`."""
        roll_up(self._database, now - self._settings.telemetry_kept_s)
        self._auth.expire(now)
        expire_detections(self._database, now - self._settings.events_kept_s, self._stop)

    def collect_garbage(self, now: float, grace_s: float = GRACE_S) -> Collected:
        """Remove blobs that no manifest needs and that are older than `grace_s` seconds."""
        return collect_garbage(self._database, self._blobs, now, grace_s)
