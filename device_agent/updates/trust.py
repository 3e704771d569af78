"""Whether an update may run here: decided before the download, from the manifest's digest alone."""

from __future__ import annotations

from typing import Protocol

from edgec.device_agent.errors import TrustError
from edgec.protocol.jobs import UpdateDocument


class Trust(Protocol):
    """Decides on an update; raises to refuse it."""

    def check(self, document: UpdateDocument) -> None:
        """Check that the fleet vouches for this digest on this device.

        Raises:
            TrustError: it does not, or the metadata is expired, rolled back or forged.
        """


class DigestTrust:
    """Trusts the job: its digest came over the authenticated broker connection, and all content is hashed."""

    def __init__(self, target: str = "") -> None:
        self._target = target

    def check(self, document: UpdateDocument) -> None:
        """Refuse an update for another target."""
        if document.target and self._target and document.target != self._target:
            raise TrustError(f"the update is for {document.target}, this device is {self._target}")
