"""Push an artifact to a registry: blobs that it holds are not sent again, interrupted uploads resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from edgec.fleet.client.connection import FleetClient, part
from edgec.fleet.errors import FleetError, RefusedByServer, ServerUnreachable
from edgec.protocol.names import check_name
from edgec.runtime.artifact.oci import MANIFEST_TYPE, canonical_json, digest_of, parse_manifest
from edgec.runtime.artifact.reader import Artifact

CHUNK = 4 << 20
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Pushed:
    """A pushed artifact.

    Attributes:
        model: its name.
        version: its version.
        target: what it was compiled for.
        repository: where it was pushed.
        digest: of its manifest.
        size: of all blobs, in bytes.
        sent_bytes: how many the registry did not hold yet.
        known: whether the registry had this very artifact under this version already.
    """

    model: str
    version: str
    target: str
    repository: str
    digest: str
    size: int
    sent_bytes: int
    known: bool = False


class VersionTaken(FleetError):
    """The registry has another artifact under this version."""

    exit_code = 4


def push_artifact(
    client: FleetClient,
    path: Path,
    name: str | None,
    version: str | None,
    progress: Callable[[str, int, int], None],
    *,
    following: bool = False,
) -> Pushed:
    """Push `path` as `models/<name>:<version>-<target>`; `progress` is called with a title, bytes done and total
    bytes.

    Another `name` or `version` than the artifact's own is written into its config, which gives it a new
    digest. With `following` the version is the next number that the fleet's registry has not given yet.

    Raises:
        ArtifactError: the file is damaged.
        VersionTaken: the version is another artifact already.
        FleetError: a name is invalid, or the registry refuses or is unreachable.
    """
    artifact = Artifact.open(path)
    artifact.verify_digests()
    if not following:
        return _push(client, artifact, name, version, progress)
    model = check_name(name or artifact.config.name, "model name")
    for attempt in range(ATTEMPTS):
        version = client.get(f"/models/{part(model)}/next-version")["version"]
        try:
            return _push(client, artifact, name, version, progress)
        except VersionTaken:  # by somebody who pushed in the meantime
            if attempt + 1 == ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def _push(
    client: FleetClient, artifact: Artifact, name: str | None, version: str | None,
    progress: Callable[[str, int, int], None],
) -> Pushed:  # fmt: skip
    config, manifest = _renamed(artifact, name, version)
    contents = {blob.digest: artifact.blob(blob.digest) for blob in artifact.manifest.layers}
    contents[digest_of(config)] = memoryview(config)
    fields = json.loads(config)
    model = check_name(fields["name"], "model name")
    repository = f"models/{model}"
    tag, digest = f"{fields['version']}-{fields['target']}", digest_of(manifest)
    known = _digest_of_tag(client, repository, tag)
    if known not in (None, digest):
        raise VersionTaken(
            f"{model}:{fields['version']} for {fields['target']} is another artifact in the registry, and a version "
            "stays what it is: push this with --next, or with another --version"
        )
    titles = {blob.digest: blob.title or "config" for blob in parse_manifest(manifest).all_blobs()}
    sent = sum(
        len(content)
        for digest, content in contents.items()
        if _push_blob(client, repository, digest, content, titles.get(digest, digest), progress)
    )
    try:
        client.send(
            "PUT",
            f"/v2/{repository}/manifests/{tag}",
            content=manifest,
            headers={"Content-Type": MANIFEST_TYPE},
        )
    except RefusedByServer as error:
        if error.status == 409:
            raise VersionTaken(str(error)) from error
        raise
    size = sum(len(content) for content in contents.values())
    version, target = fields["version"], fields["target"]
    return Pushed(model, version, target, repository, digest, size, sent, known == digest)


def _digest_of_tag(client: FleetClient, repository: str, tag: str) -> str | None:
    """The digest that the registry has under a tag; None without one."""
    try:
        answer = client.send("HEAD", f"/v2/{repository}/manifests/{tag}", headers={"Accept": MANIFEST_TYPE})
    except RefusedByServer as error:
        if error.status == 404:
            return None
        raise
    digest: str | None = answer.headers.get("docker-content-digest")
    return digest


def _renamed(artifact: Artifact, name: str | None, version: str | None) -> tuple[bytes, bytes]:
    """The config and manifest to push, changed only if another name or version is requested."""
    config = artifact.read(artifact.manifest.config)
    fields = json.loads(config)
    if (name or fields["name"], version or fields["version"]) == (fields["name"], fields["version"]):
        return config, artifact.manifest_bytes
    fields |= {"name": name or fields["name"], "version": version or fields["version"]}
    config = canonical_json(fields)
    manifest = json.loads(artifact.manifest_bytes)
    manifest["config"] |= {"digest": digest_of(config), "size": len(config)}
    for key, value in {
        "org.opencontainers.image.title": "name",
        "org.opencontainers.image.version": "version",
    }.items():
        if key in manifest.get("annotations", {}):
            manifest["annotations"][key] = fields[value]
    return config, canonical_json(manifest)


def _push_blob(
    client: FleetClient, repository: str, digest: str, content: memoryview, title: str,
    progress: Callable[[str, int, int], None],
) -> bool:  # fmt: skip
    """Send one blob unless the registry holds it; returns whether it was sent."""
    try:
        client.send("HEAD", f"/v2/{repository}/blobs/{digest}")
        progress(title, len(content), len(content))
        return False
    except RefusedByServer as error:
        if error.status != 404:
            raise
    location = client.send("POST", f"/v2/{repository}/blobs/uploads/").headers["location"]
    offset, failures = 0, 0
    while offset < len(content):
        end = min(offset + CHUNK, len(content))
        headers = {"Content-Range": f"{offset}-{end - 1}", "Content-Type": "application/octet-stream"}
        try:
            answer = client.send(
                "PATCH", location, content=_body(content[offset:end]), headers=headers | _length(end - offset)
            )
            location, offset = answer.headers.get("location", location), end
        except (ServerUnreachable, RefusedByServer) as error:
            failures += 1
            if failures >= ATTEMPTS or (isinstance(error, RefusedByServer) and error.status != 416):
                raise
            offset = _standing(client, location)
        progress(title, offset, len(content))
    # Other registries carry an upload's state in the query of its URL, which must be preserved.
    client.send("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}")
    return True


def _length(size: int) -> dict[str, str]:
    return {"Content-Length": str(size)}


def _body(content: memoryview) -> Iterator[bytes]:
    yield bytes(content)


def _standing(client: FleetClient, location: str) -> int:
    """The offset at which an interrupted upload resumes."""
    try:
        answer = client.send("GET", location)
    except httpx.HTTPError as error:
        raise FleetError(f"the upload was interrupted: {error}") from error
    first, _, last = answer.headers.get("range", "0-0").partition("-")
    return int(last) + 1 if int(last) or int(first) else 0
