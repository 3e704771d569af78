"""Mends the model store: what a disk has altered is fetched from the registry again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from edgec.device_agent.errors import FetchError, StateError, TrustError, UpdateError
from edgec.device_agent.updates.deployments import Deployments, Version
from edgec.device_agent.updates.fetch import RETRY, Canceled, Fetcher
from edgec.device_agent.updates.store import ModelStore
from edgec.protocol.enrol import RegistryAccess

log = logging.getLogger("updater")


class Mender:
    """Fetches the damaged or missing blobs of the model that a slot has to run.

    Nothing new is trusted by it: a blob is accepted by the digest that was trusted when the model was installed.

    Args:
        store: the models on the device.
        deployments: which of them each slot has to run.
        access: the fleet's registry; None for a device that is not enrolled.
        timeout_s: for how long a registry that does not answer is asked.
    """

    def __init__(
        self, store: ModelStore, deployments: Deployments, access: RegistryAccess | None, timeout_s: float
    ) -> None:
        self._store, self._deployments, self._access = store, deployments, access
        self._retry = replace(RETRY, total_s=timeout_s)
        self._stop = threading.Event()
        self._busy: set[str] = set()

    def look(self, slot: str, done: Callable[[str], None]) -> None:
        """Mend a slot's model in a thread, if it is damaged; `done` is called with an empty text, or what is wrong."""
        if slot in self._busy:
            return
        self._busy.add(slot)

        def work() -> None:
            try:
                if self.mend(slot):
                    done("")
            except UpdateError as error:
                done(str(error))
            except Canceled:
                log.info("slot %s is mended after the next start", slot)
            finally:
                self._busy.discard(slot)

        threading.Thread(target=work, name=f"mend-{slot}", daemon=True).start()

    def stop(self) -> None:
        """End what is under way."""
        self._stop.set()

    def mend(self, slot: str) -> bool:
        """Make a slot's model whole; returns whether anything was fetched.

        Raises:
            UpdateError: it is damaged and cannot be fetched; the message says why.
            Canceled: `stop` was called.
        """
        version = self._deployments.to_run(slot)
        if version is None or self._store.whole(version.digest):
            return False
        log.error("slot %s: %s is damaged on disk: fetching what is missing", slot, _shown(version))
        access = self._access
        source = self._deployments.source(version.digest)
        if source is None and access is not None and version.name:
            source = (
                access.url,
                f"models/{version.name}",
            )  # Installed by an agent that did not record the source.
        if source is None:
            raise UpdateError(
                f"{_shown(version)} is damaged and no registry has it: copy the artifact into its place again"
            )
        same = access is not None and access.url.rstrip("/") == source[0].rstrip("/")
        token = access.token if access is not None and same else None
        fetcher = Fetcher(self._store, *source, token, self._stop, self._retry)
        try:
            fetcher.fetch(version.digest)
        except (FetchError, TrustError, StateError) as error:
            raise UpdateError(f"{_shown(version)} is damaged and cannot be mended: {error}") from error
        log.info("slot %s: mended, %s bytes fetched", slot, fetcher.transferred)
        return True


def _shown(version: Version) -> str:
    return f"{version.name} {version.version}".strip() or f"{version.digest[:19]}…"
