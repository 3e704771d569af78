"""Commands of `edgec fleet keys`: sign locally, with keys of this machine, and publish the result to the server."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key, Signer, SSlibKey
from tuf.api.metadata import Metadata, Root, Targets

from edgec.fleet.client.connection import FleetClient, part
from edgec.fleet.errors import FleetError
from edgec.fleet.trust.keys import add_key, load_any, load_role, role_paths
from edgec.fleet.trust.signing import (
    Signed,
    first_root,
    first_targets,
    next_root,
    next_targets,
    sign,
    target_path,
)


def online_key(client: FleetClient) -> Key:
    """The server's key for snapshot and timestamp."""
    fields = dict(client.get("/trust")["online_key"])
    return SSlibKey.from_dict(fields.pop("keyid"), fields)


def init(
    client: FleetClient, folder: Path, *, root_keys: int, root_threshold: int, targets_keys: int,
    targets_threshold: int, valid: timedelta, root_uris: Sequence[str] = (), targets_uris: Sequence[str] = (),
) -> Metadata[Root]:  # fmt: skip
    """Create keys in `folder` and set up the server's trust. Keys on tokens (`root_uris`, `targets_uris`) come
    first; key files make up the rest.

    Raises:
        FleetError: trust is set up already, keys are there already, a threshold is too large, or a token cannot be
            used.
    """
    if client.get("/trust")["active"]:
        raise FleetError(
            "this server's trust is set up already; use 'edgec fleet keys rotate' to change keys"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    root_keys, targets_keys = max(root_keys, len(root_uris)), max(targets_keys, len(targets_uris))
    if root_threshold > root_keys or targets_threshold > targets_keys:
        raise FleetError("a threshold cannot be larger than the number of its keys")
    if there := [*role_paths(folder, "root"), *role_paths(folder, "targets")]:
        raise FleetError(f"{there[0]} exists already: a signing key is never overwritten")
    try:
        roots = _keys(folder, "root", root_keys, root_uris)
        targets = _keys(folder, "targets", targets_keys, targets_uris)
        root = first_root(
            roots, targets, online_key(client), threshold=root_threshold, targets_threshold=targets_threshold,
            valid=valid,
        )  # fmt: skip
        first = first_targets(targets)
    except FleetError:
        # These keys are not in use yet, and would block another attempt with the right PIN.
        for path in (*role_paths(folder, "root"), *role_paths(folder, "targets")):
            path.unlink()
        raise
    _publish(client, root, first)
    return root


def _keys(folder: Path, role: str, number: int, uris: Sequence[str]) -> list[Signer]:
    wanted: list[str | None] = [*uris, *([None] * (number - len(uris)))]
    return [add_key(folder, role, uri) for uri in wanted]


def current_root(client: FleetClient) -> Metadata[Root]:
    """The newest root, found the way devices find it.

    Raises:
        FleetError: there is none.
    """
    found: bytes | None = None
    version = 1
    while True:
        answer = client.http.get(f"/tuf/metadata/{version}.root.json")
        if answer.status_code != 200:
            break
        found, version = answer.content, version + 1
    if found is None:
        raise FleetError("this server's trust is not set up: edgec fleet keys init")
    return Metadata.from_bytes(found)


def current_targets(client: FleetClient) -> Metadata[Targets]:
    """The newest targets, found through timestamp and snapshot."""
    timestamp = client.send("GET", "/tuf/metadata/timestamp.json").json()
    number = timestamp["signed"]["meta"]["snapshot.json"]["version"]
    snapshot = client.send("GET", f"/tuf/metadata/{number}.snapshot.json").json()
    number = snapshot["signed"]["meta"]["targets.json"]["version"]
    return Metadata.from_bytes(client.send("GET", f"/tuf/metadata/{number}.targets.json").content)


def sign_version(client: FleetClient, folder: Path, model: str, version: str) -> list[Signed]:
    """Sign every artifact of a version, after fetching its manifest and checking the digest locally.

    Raises:
        FleetError: nothing was pushed under that name, or the registry returned other content.
    """
    rows = [row for row in client.get(f"/models/{part(model)}")["artifacts"] if row["version"] == version]
    if not rows:
        raise FleetError(f"nothing was pushed as {model}:{version}")
    found = [_checked(client, row) for row in rows]
    signers = load_role(folder, "targets")
    _publish(client, None, next_targets(current_targets(client), signers, add=found))
    return found


def _checked(client: FleetClient, row: dict[str, Any]) -> Signed:
    content = client.send("GET", f"/v2/{row['repository']}/manifests/{row['digest']}").content
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if digest != row["digest"]:
        raise FleetError(f"the registry returned {digest} for {row['digest']}")
    return Signed(row["model"], row["version"], row["target"], digest, len(content))


def unsign_version(client: FleetClient, folder: Path, model: str, version: str) -> list[str]:
    """Withdraw the signature of a version: devices refuse it from their next check on.

    Raises:
        FleetError: it was not signed.
    """
    current = current_targets(client)
    prefix = target_path(model, version, "")
    paths = [path for path in current.signed.targets if path.startswith(prefix)]
    if not paths:
        raise FleetError(f"{model}:{version} is not signed")
    _publish(client, None, next_targets(current, load_role(folder, "targets"), remove=paths))
    return paths


def rotate(
    client: FleetClient, folder: Path, role: str, *, keep: bool = False, uri: str | None = None
) -> str:
    """Replace the keys of root or targets by a new one, or add it beside them with `keep`; returns its id. With
    `uri` the new key is on a token.

    Root is signed by the old keys and the new one, so that devices with the old root can follow.

    Raises:
        FleetError: the old keys are not in `folder`.
    """
    root = current_root(client)
    old_roots = load_role(folder, "root")
    before = load_role(folder, role)
    fresh = add_key(folder, role, uri)
    following = next_root(root)
    following.signed.add_key(fresh.public_key, role)
    if not keep:
        for keyid in [
            keyid for keyid in following.signed.roles[role].keyids if keyid != fresh.public_key.keyid
        ]:
            following.signed.revoke_key(keyid, role)
        following.signed.roles[role].threshold = 1
    signers = {
        signer.public_key.keyid: signer for signer in (*old_roots, *([fresh] if role == "root" else []))
    }
    targets = None
    if role == "targets":
        targets = next_targets(current_targets(client), [fresh, *(before if keep else [])])
    _publish(client, sign(following, signers.values()), targets)
    if not keep:
        _retire(folder, role, fresh.public_key.keyid)
    return str(fresh.public_key.keyid)


def _retire(folder: Path, role: str, keep: str) -> None:
    """Rename key files that root no longer lists."""
    for path in role_paths(folder, role):
        if load_any(path).public_key.keyid != keep:
            path.replace(path.with_suffix(".retired"))


def extend(client: FleetClient, folder: Path, role: str, valid: timedelta) -> None:
    """Re-sign root or targets with a later expiry.

    Raises:
        FleetError: its keys are not in `folder`.
    """
    if role == "root":
        following = next_root(current_root(client), valid=valid)
        _publish(client, sign(following, load_role(folder, "root")), None)
    else:
        _publish(
            client, None, next_targets(current_targets(client), load_role(folder, "targets"), valid=valid)
        )


def _publish(client: FleetClient, root: Metadata[Root] | None, targets: Metadata[Targets] | None) -> None:
    body = {
        "root": root.to_bytes().decode() if root else None,
        "targets": targets.to_bytes().decode() if targets else None,
    }
    client.put("/trust/metadata", body)
