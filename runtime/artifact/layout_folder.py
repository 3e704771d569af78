"""Unpack `.edge` files into OCI layout folders, and pack them again into the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgec.runtime.artifact import oci
from edgec.runtime.artifact.reader import Artifact
from edgec.runtime.artifact.writer import replacing, write_tar
from edgec.runtime.errors import ArtifactError


def unpack_to_layout(path: str | Path, folder: str | Path) -> str:
    """Add the artifact of an `.edge` file to an OCI layout folder, which is created if missing; return its digest.

    Blobs that the folder already has are not written again. The index is written last, when all blobs are on disk.

    Raises:
        ArtifactError: the file is damaged; the folder's index is unchanged then.
    """
    artifact, folder = Artifact.open(path), Path(folder)
    artifact.verify_digests()
    contents = {artifact.manifest_digest: memoryview(artifact.manifest_bytes)}
    contents |= {blob.digest: artifact.blob(blob.digest) for blob in artifact.manifest.all_blobs()}
    for digest, content in contents.items():
        place = folder / oci.blob_path(digest)
        if not place.is_file() or place.stat().st_size != len(content):
            with replacing(place) as file:
                file.write(content)
    if not (folder / oci.LAYOUT_FILE).is_file():
        with replacing(folder / oci.LAYOUT_FILE) as file:
            file.write(oci.LAYOUT_CONTENT)
    add_to_index(folder, artifact.manifest_bytes)
    return artifact.manifest_digest


def add_to_index(folder: str | Path, manifest_bytes: bytes) -> None:
    """Add an artifact whose blobs are already in the layout folder to its `index.json`."""
    index_file = Path(folder) / oci.INDEX_FILE
    entry = oci.index_entry(oci.parse_manifest(manifest_bytes), manifest_bytes)
    entries: list[Any] = []
    if index_file.is_file():
        try:
            entries = [
                e for e in json.loads(index_file.read_bytes())["manifests"] if e["digest"] != entry["digest"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{index_file}: not an OCI index ({error})") from error
    index = {"schemaVersion": 2, "mediaType": oci.INDEX_TYPE, "manifests": [*entries, entry]}
    with replacing(index_file) as file:
        file.write(oci.canonical_json(index))


def pack_from_layout(folder: str | Path, digest: str, path: str | Path) -> None:
    """Pack the artifact `digest` of an OCI layout folder into an `.edge` file, byte for byte the original one.

    Raises:
        ArtifactError: a blob is missing or damaged; no file is written then.
    """
    artifact = Artifact.open(folder, digest=digest)
    artifact.verify_digests()
    blobs = {blob.digest: [artifact.blob(blob.digest)] for blob in artifact.manifest.all_blobs()}
    with replacing(Path(path)) as file:
        write_tar(file, artifact.manifest, artifact.manifest_bytes, blobs)
