"""The server's TUF repository: stores what operators signed, signs snapshot and timestamp with its online key.

The server never holds root or targets keys. An attacker who takes it over can withhold updates until the last
timestamp expires, and cannot sign anything new.
"""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from securesystemslib.exceptions import StorageError
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from edgec.fleet.errors import FleetError
from edgec.fleet.problems import Problem
from edgec.fleet.store.files import replace_file
from edgec.fleet.trust.keys import load_key, new_key

TIMESTAMP_VALID = timedelta(days=1)
SNAPSHOT_VALID = timedelta(days=7)
MAX_BYTES = 5_000_000
_NAME = re.compile(r"(?:[1-9]\d{0,8}\.)?(?:root|targets|snapshot)\.json|timestamp\.json")


class Repository:
    """Metadata files in `<folder>/metadata`, the online key beside them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._metadata = folder / "metadata"
        self._lock = threading.Lock()

    @property
    def active(self) -> bool:
        """Whether an operator has set trust up: from then on only signed versions are rolled out."""
        return (self._metadata / "timestamp.json").is_file()

    def read(self, name: str) -> bytes | None:
        """A metadata file as devices fetch it, by the names that TUF gives them."""
        if not _NAME.fullmatch(name):
            return None
        try:
            return (self._metadata / name).read_bytes()
        except FileNotFoundError:
            return None

    def online_key(self) -> Key:
        """The public half of the key for snapshot and timestamp; the key is created on first use."""
        return self._signer().public_key

    def _signer(self) -> CryptoSigner:
        path = self._folder / "online.pem"
        self._folder.mkdir(parents=True, exist_ok=True)
        return load_key(path) if path.exists() else new_key(path)

    def first_root(self) -> bytes | None:
        """Version 1 of root, which devices get when they enrol."""
        return self.read("1.root.json")

    def latest(self, role: str) -> bytes | None:
        """The newest root or targets."""
        version = self._latest_version(role)
        return self.read(f"{version}.{role}.json") if version else None

    def _latest_version(self, role: str) -> int:
        names = self._metadata.glob(f"*.{role}.json")
        return max((int(path.name.partition(".")[0]) for path in names), default=0)

    def digests(self) -> dict[str, str]:
        """The signed artifacts: TUF path to manifest digest."""
        content = self.latest("targets")
        if content is None:
            return {}
        targets = _parse(Targets, content).signed.targets
        return {path: f"sha256:{info.hashes['sha256']}" for path, info in targets.items()}

    def publish(self, root: bytes | None, targets: bytes | None) -> None:
        """Publish newly signed metadata, after the checks that devices will make, and sign snapshot and timestamp
        for it.

        Raises:
            Problem: 409 or 422: not signed as the current root requires, not the next version, or expired.
        """
        with self._lock:
            try:
                trusted = self._check_root(root)
                checked = self._check_targets(trusted, targets)
            except (RepositoryError, DeserializationError, StorageError) as error:
                raise Problem(422, "Metadata refused", str(error)) from error
            self._metadata.mkdir(parents=True, exist_ok=True)
            if root is not None:
                self._write(f"{trusted.signed.version}.root.json", root)
            if targets is not None:
                self._write(f"{checked.signed.version}.targets.json", targets)
            self._refresh(trusted, checked)

    def refresh(self, now: datetime | None = None) -> bool:
        """Re-sign snapshot and timestamp when less than half of their validity is left; returns whether it did."""
        content, root = self.read("timestamp.json"), self.latest("root")
        if content is None or root is None:
            return False
        moment = now or datetime.now(UTC)
        if _parse(Timestamp, content).signed.expires - moment > TIMESTAMP_VALID / 2:
            return False
        with self._lock:
            targets = self.latest("targets")
            if targets is None:
                raise FleetError(f"the TUF repository in {self._folder} has no targets metadata")
            self._refresh(_parse(Root, root), _parse(Targets, targets))
        return True

    def _check_root(self, content: bytes | None) -> Metadata[Root]:
        current = self.latest("root")
        if content is None:
            if current is None:
                raise Problem(409, "No root yet", "Run 'edgec fleet keys init' first.")
            return _parse(Root, current)
        fresh = _parse(Root, content)
        before = self._latest_version("root")
        if fresh.signed.version != before + 1:
            raise Problem(
                409, "Not the next root", f"Root is at version {before}, this is {fresh.signed.version}."
            )
        if current is not None:
            _parse(Root, current).verify_delegate("root", fresh)
        fresh.verify_delegate("root", fresh)
        online = self.online_key().keyid
        for role in ("snapshot", "timestamp"):
            if online not in fresh.signed.roles[role].keyids:
                raise Problem(422, "Metadata refused", f"Root does not name this server's key for {role}.")
        _check_expiry(fresh.signed.expires, "root")
        return fresh

    def _check_targets(self, root: Metadata[Root], content: bytes | None) -> Metadata[Targets]:
        current = self.latest("targets")
        if content is None:
            if current is None:
                raise Problem(409, "No targets yet", "Send targets metadata with the first root.")
            checked = _parse(Targets, current)
            root.verify_delegate("targets", checked)
            return checked
        fresh = _parse(Targets, content)
        before = self._latest_version("targets")
        if fresh.signed.version != before + 1:
            raise Problem(
                409,
                "Not the next targets",
                f"Targets is at version {before}, this is {fresh.signed.version}.",
            )
        root.verify_delegate("targets", fresh)
        _check_expiry(fresh.signed.expires, "targets")
        return fresh

    def _refresh(self, root: Metadata[Root], targets: Metadata[Targets]) -> None:
        signer = self._signer()
        now = datetime.now(UTC).replace(microsecond=0)
        number = self._latest_version("snapshot") + 1
        snapshot = Metadata(Snapshot(version=number, expires=now + SNAPSHOT_VALID))
        snapshot.signed.meta["targets.json"] = MetaFile(version=targets.signed.version)
        snapshot.sign(signer)
        old = self.read("timestamp.json")
        version = _parse(Timestamp, old).signed.version + 1 if old else 1
        timestamp = Metadata(Timestamp(version=version, expires=now + TIMESTAMP_VALID))
        timestamp.signed.snapshot_meta = MetaFile(version=number)
        timestamp.sign(signer)
        root.verify_delegate("snapshot", snapshot)
        # In this order a client in between sees either all of the old state or all of the new.
        self._write(f"{number}.snapshot.json", snapshot.to_bytes())
        self._write("timestamp.json", timestamp.to_bytes())

    def _write(self, name: str, content: bytes) -> None:
        replace_file(self._metadata / name, content, copied=True)


S = TypeVar("S", Root, Targets, Timestamp)


def _parse(kind: type[S], content: bytes) -> Metadata[S]:
    if len(content) > MAX_BYTES:
        raise Problem(413, "Metadata refused", f"Metadata may have {MAX_BYTES} bytes.")
    metadata: Metadata[S] = Metadata.from_bytes(content)
    if not isinstance(metadata.signed, kind):
        raise Problem(422, "Metadata refused", f"This is {metadata.signed.type}, not {kind.type}.")
    return metadata


def _check_expiry(expires: datetime, role: str) -> None:
    if expires < datetime.now(UTC):
        raise Problem(
            422, "Metadata refused", f"This {role} metadata expired at {expires:%Y-%m-%d %H:%M} UTC."
        )
