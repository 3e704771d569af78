"""Trust by The Update Framework (TUF 1.0): an update runs here only if the fleet's offline keys vouch for
its digest.

The client is python-tuf's. It does not fsync and trusts the clock; therefore a floor is stored durably beside its
metadata: the highest version of each role ever accepted, with the keys that root named for it, and the latest time.
Neither a disk nor a clock that is set back can make old metadata valid again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edgec.device_agent.errors import TrustError
from edgec.device_agent.process.causes import clock_cause, shown_time
from edgec.device_agent.process.statefile import StateFile
from edgec.device_agent.updates.trust import DigestTrust, Trust
from edgec.protocol.enrol import EnrollResponse
from edgec.protocol.jobs import UpdateDocument

METADATA = "/tuf/metadata"
ROLES = ("root", "timestamp", "snapshot", "targets")
TIMEOUT_S = 20.0
CHUNK = 64 * 1024
_CLOCK = "this device's clock (set it, if that is wrong) shows"


class HttpFetcher(FetcherInterface):
    """Fetches by HTTP(S) with a read timeout; python-tuf limits the length."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._client = httpx.Client(timeout=timeout_s)

    def _fetch(self, url: str) -> Iterator[bytes]:
        with self._client.stream("GET", url) as answer:
            if answer.status_code != 200:
                raise DownloadHTTPError(f"{url} answered {answer.status_code}", answer.status_code)
            yield from answer.iter_bytes(CHUNK)


class TufTrust:
    """Checks update documents against signed metadata.

    Args:
        folder: where metadata and the floor are stored.
        metadata_url: the repository's metadata, such as `https://fleet/tuf/metadata`.
        root: the initial root metadata, from enrolment; it alone is trusted without a signature.
        target: this device's target; empty leaves the decision to the artifact's own check.
        fetcher: how to fetch; HTTP if not given.
    """

    def __init__(
        self,
        folder: Path,
        metadata_url: str,
        root: bytes,
        target: str = "",
        fetcher: FetcherInterface | None = None,
    ) -> None:
        self._folder = folder / "metadata"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._floor = StateFile(folder / "floor.json")
        self._url = metadata_url.rstrip("/") + "/"
        self._root = root
        self._target = target
        self._fetcher = fetcher or HttpFetcher()

    def check(self, document: UpdateDocument) -> None:
        """Check that the fleet vouches for this digest on this device.

        Raises:
            TrustError: it does not, or the metadata is expired, rolled back or forged.
        """
        if document.target and self._target and document.target != self._target:
            raise TrustError(f"the update is for {document.target}, this device is {self._target}")
        path = document.trust.get("path")
        if not isinstance(path, str):
            raise TrustError(
                f"{document.model}:{document.version} is not signed: the job names no signed target"
            )
        try:
            updater = self.refresh()
            info = updater.get_targetinfo(path)
        except ExpiredMetadataError as error:
            raise TrustError(
                f"the fleet's signatures have expired ({error}), and {_CLOCK} {shown_time()}"
            ) from error
        except (RepositoryError, DownloadError, OSError, httpx.HTTPError) as error:
            if clock := clock_cause(error):
                raise TrustError(clock) from error
            raise TrustError(f"the fleet's signatures cannot be trusted: {error}") from error
        if info is None:
            raise TrustError(f"{path} is not signed")
        if f"sha256:{info.hashes.get('sha256')}" != document.manifest_digest:
            raise TrustError(f"{path} was signed with another digest than {document.manifest_digest}")
        custom = info.custom or {}
        if (custom.get("model"), custom.get("version")) != (document.model, document.version):
            raise TrustError(f"{path} was signed as {custom.get('model')}:{custom.get('version')}")

    def refresh(self) -> Updater:
        """Bring the metadata up to date; returns what then knows the signed targets.

        Raises:
            TrustError: a role went back, or has expired by the latest known time.
            RepositoryError: the metadata is not valid.
            DownloadError: it cannot be fetched.
        """
        floor: dict[str, Any] = self._floor.load().data or {}
        updater = Updater(
            str(self._folder), self._url, fetcher=self._fetcher, bootstrap=self._root,
            config=UpdaterConfig(app_user_agent="edgec-agent"),
        )  # fmt: skip
        updater.refresh()
        self._hold_floor(floor)
        return updater

    def _hold_floor(self, floor: dict[str, Any]) -> None:
        """Refuse anything below the floor, then raise it.

        Raises:
            TrustError: a role's version went back, or it has expired by the latest known time.
        """
        root = self._load(Root)
        seen: dict[str, Any] = floor.get("roles", {})
        latest = max(
            datetime.now(UTC), datetime.fromisoformat(floor.get("time", "1970-01-01T00:00:00+00:00"))
        )
        roles: dict[str, Any] = {}
        loaded = (root, self._load(Timestamp), self._load(Snapshot), self._load(Targets))
        for role, metadata in zip(ROLES, loaded, strict=True):
            own, keys = sorted(root.signed.roles[role].keyids), _keys_held(root.signed, role)
            known = seen.get(role, {})
            # After a fast-forward attack, root names new keys, and versions start over. Floors of earlier versions of
            # edgec were tied to the role's own keys alone.
            if known.get("keys") in (keys, own) and metadata.signed.version < known.get("version", 0):
                raise TrustError(
                    f"the fleet's {role} metadata went back from version {known['version']}"
                    f" to {metadata.signed.version}"
                )
            if metadata.signed.is_expired(latest):
                raise TrustError(
                    f"the fleet's {role} metadata expired at {metadata.signed.expires:%Y-%m-%d %H:%M} UTC, "
                    f"and {_CLOCK} {latest:%Y-%m-%d %H:%M} UTC"
                )
            roles[role] = {"version": metadata.signed.version, "keys": keys}
        self._floor.save({"roles": roles, "time": latest.isoformat()})

    def _load(self, kind: type[Root] | type[Timestamp] | type[Snapshot] | type[Targets]) -> Metadata[Any]:
        return Metadata.from_file(str(self._folder / f"{kind.type}.json"))


def _keys_held(root: Root, role: str) -> list[str]:
    """The keys on which a role's floor depends: with new keys for timestamp or snapshot, root lets both start over, and
    with them the versions of targets that a snapshot lists (TUF 1.0, 5.3.11)."""
    roles = {"root": ["root"], "targets": ["targets", "snapshot", "timestamp"]}.get(
        role, ["snapshot", "timestamp"]
    )
    return sorted({key for name in roles for key in root.roles[name].keyids})


def trust_of(identity: EnrollResponse | None, state: Path, target: str) -> Trust:
    """Return TUF trust if the fleet had signatures when this device enrolled, else trust in its jobs' digests."""
    if identity is None or identity.trusted_root is None:
        return DigestTrust(target)
    server = (identity.api_url or identity.registry.url).rstrip("/")
    return TufTrust(state / "trust", server + METADATA, identity.trusted_root.encode(), target)
