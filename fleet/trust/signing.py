"""Metadata that operators sign offline: root and targets of the TUF repository (TUF specification 1.0)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from edgec.fleet.errors import FleetError

ROOT_VALID = timedelta(days=365)
TARGETS_VALID = timedelta(days=180)


@dataclass(frozen=True, slots=True)
class Signed:
    """An artifact to sign.

    Attributes:
        model: its name.
        version: its version.
        target: what it was compiled for.
        digest: of its manifest, `sha256:…`.
        size: of the manifest, in bytes.
    """

    model: str
    version: str
    target: str
    digest: str
    size: int

    @property
    def path(self) -> str:
        """Its name among the TUF targets."""
        return target_path(self.model, self.version, self.target)


def target_path(model: str, version: str, target: str) -> str:
    """The TUF target of an artifact."""
    return f"models/{model}/{version}/{target}"


def _expiry(valid: timedelta) -> datetime:
    return (datetime.now(UTC) + valid).replace(microsecond=0)


def first_root(
    roots: Sequence[Signer], targets: Sequence[Signer], online: Key, *, threshold: int = 1,
    targets_threshold: int = 1, valid: timedelta = ROOT_VALID,
) -> Metadata[Root]:  # fmt: skip
    """Version 1 of root: who signs what. The online key signs snapshot and timestamp only.

    Raises:
        FleetError: a threshold is larger than the number of keys.
    """
    if threshold > len(roots) or targets_threshold > len(targets):
        raise FleetError("a threshold cannot be larger than the number of its keys")
    root = Root(expires=_expiry(valid), consistent_snapshot=True)
    for name, signers in (("root", roots), ("targets", targets)):
        for signer in signers:
            root.add_key(signer.public_key, name)
    for name in ("snapshot", "timestamp"):
        root.add_key(online, name)
    root.roles["root"].threshold = threshold
    root.roles["targets"].threshold = targets_threshold
    return sign(Metadata(root), roots)


def next_root(current: Metadata[Root], *, valid: timedelta = ROOT_VALID) -> Metadata[Root]:
    """An unsigned copy of root with the next version and a new expiry, to change and `sign`."""
    following: Metadata[Root] = Metadata.from_bytes(current.to_bytes())
    following.signatures.clear()
    following.signed.version += 1
    following.signed.expires = _expiry(valid)
    return following


def first_targets(signers: Sequence[Signer]) -> Metadata[Targets]:
    """Version 1 of targets, without any artifact."""
    return sign(Metadata(Targets(expires=_expiry(TARGETS_VALID))), signers)


def next_targets(
    current: Metadata[Targets], signers: Sequence[Signer], *, add: Iterable[Signed] = (),
    remove: Iterable[str] = (), valid: timedelta = TARGETS_VALID,
) -> Metadata[Targets]:  # fmt: skip
    """The next version of targets, with artifacts added and paths removed.

    Raises:
        FleetError: a path to remove is not signed.
    """
    following: Metadata[Targets] = Metadata.from_bytes(current.to_bytes())
    following.signatures.clear()
    following.signed.version += 1
    following.signed.expires = _expiry(valid)
    for path in remove:
        if following.signed.targets.pop(path, None) is None:
            raise FleetError(f"{path} is not signed")
    for item in add:
        custom: Mapping[str, str] = {"model": item.model, "version": item.version, "target": item.target}
        following.signed.targets[item.path] = TargetFile(
            item.size, {"sha256": item.digest.removeprefix("sha256:")}, item.path, {"custom": dict(custom)}
        )
    return sign(following, signers)


M = TypeVar("M", Root, Targets)


def sign(metadata: Metadata[M], signers: Iterable[Signer]) -> Metadata[M]:
    """Add a signature of each signer.

    Raises:
        FleetError: a key cannot sign.
    """
    for signer in signers:
        try:
            metadata.sign(signer, append=True)
        except UnsignedMetadataError as error:
            raise FleetError(f"cannot sign: {error}") from error
    return metadata
