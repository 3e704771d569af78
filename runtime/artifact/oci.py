"""OCI image layouts: descriptors, manifests, and the canonical tar of a layout that an `.edge` file is.

The tar is canonical: equal blobs give equal bytes, headers have no times or owners, and nothing follows the end mark.
Readers enforce this byte for byte, so an altered header is detected like an altered blob. (A layout written by another
tool is read from a folder.) Specification: opencontainers/image-spec 1.1.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from edgec.runtime.errors import ArtifactError

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
ARTIFACT_TYPE = "application/vnd.edgec.artifact.v1"
CONFIG_TYPE = "application/vnd.edgec.config.v1+json"
CODE_TYPE = "application/vnd.edgec.code.v1.elf"
WEIGHTS_TYPE = "application/vnd.edgec.weights.v1.safetensors"
LABELS_TYPE = "application/vnd.edgec.labels.v1+text"
EVIDENCE_TYPE = "application/vnd.edgec.evidence.v1+json"
REPORT_HTML_TYPE = "application/vnd.edgec.report.v1+html"
REPORT_MARKDOWN_TYPE = "application/vnd.edgec.report.v1+markdown"
RUNTIME_TYPE = "application/vnd.edgec.runtime.v1.elf"
PROGRAM_TYPE = "application/vnd.edgec.program.v1+json"
FALLBACK_TYPE = "application/vnd.edgec.fallback.v1+onnx"

TITLE = "org.opencontainers.image.title"
REF_NAME = "org.opencontainers.image.ref.name"
VERSION = "org.opencontainers.image.version"
TARGET = "dev.edgec.target"

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
LAYOUT_CONTENT = b'{"imageLayoutVersion":"1.0.0"}'

BLOCK = 512
END_OF_TAR = bytes(2 * BLOCK)
_CHUNK = 1 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Descriptor(NamedTuple):
    """A blob's media type, digest, size in bytes and, for a layer, file name."""

    media_type: str
    digest: str
    size: int
    title: str = ""

    def to_json(self) -> dict[str, Any]:
        """The descriptor as the specification's JSON."""
        content: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.title:
            content["annotations"] = {TITLE: self.title}
        return content

    @staticmethod
    def parse(content: Any) -> Descriptor:  # noqa: ANN401 - any JSON
        """Parse a descriptor.

        Raises:
            KeyError, TypeError, ValueError: it is malformed.
        """
        digest, size = content["digest"], content["size"]
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is not a sha256 digest")
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"{size!r} is not a size")
        title = (content.get("annotations") or {}).get(TITLE, "")
        return Descriptor(str(content["mediaType"]), digest, size, str(title))


class Manifest(NamedTuple):
    """An artifact's manifest: its config, its layers and its annotations."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str]

    def to_bytes(self) -> bytes:
        """The manifest as canonical JSON; its digest is the artifact's identity."""
        return canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "artifactType": ARTIFACT_TYPE,
                "config": self.config.to_json(),
                "layers": [layer.to_json() for layer in self.layers],
                "annotations": self.annotations,
            }
        )

    def all_blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers, each digest once."""
        return tuple({blob.digest: blob for blob in (self.config, *self.layers)}.values())


def digest_of(content: bytes | memoryview, cancelled: Callable[[], bool] = lambda: False) -> str:
    """`sha256:` and the hexadecimal SHA-256 of `content`.

    Args:
        content: the blob.
        cancelled: checked after each mebibyte; once it returns True, the digest is of what was read so far.
    """
    hashing = hashlib.sha256()
    for start in range(0, len(content), _CHUNK):
        if cancelled():
            break
        hashing.update(content[start : start + _CHUNK])
    return f"sha256:{hashing.hexdigest()}"


def is_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 digest as artifacts use it."""
    return bool(_DIGEST.fullmatch(text))


def canonical_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON-serialisable value
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse_manifest(content: bytes | memoryview) -> Manifest:
    """Parse the manifest of an edgec artifact.

    Raises:
        ArtifactError: it is malformed, or the manifest of something else.
    """
    try:
        document = json.loads(bytes(content))
        canonical_json(document)  # JSON can escape half of a surrogate pair, which no file contains
        if document.get("artifactType") != ARTIFACT_TYPE:
            raise ValueError(f"its type is {document.get('artifactType')!r}")
        return Manifest(
            Descriptor.parse(document["config"]),
            tuple(Descriptor.parse(layer) for layer in document["layers"]),
            dict(document.get("annotations") or {}),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"this is not the manifest of an edgec artifact ({error})") from error


def index_bytes(manifest: Manifest, manifest_content: bytes) -> bytes:
    """The `index.json` of a layout that holds this one artifact."""
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": [index_entry(manifest, manifest_content)],
        }
    )


def index_entry(manifest: Manifest, manifest_content: bytes) -> dict[str, Any]:
    """An artifact's entry in an `index.json`."""
    return {
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "digest": digest_of(manifest_content),
        "size": len(manifest_content),
        "annotations": {REF_NAME: manifest.annotations.get(REF_NAME, "")},
    }


def blob_path(digest: str) -> str:
    """A blob's path in a layout."""
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def tar_header(name: str, size: int) -> bytes:
    """The ustar header of a file in a canonical tar.

    Raises:
        ValueError: the size is 8 GiB or more, which ustar cannot express.
    """
    if size >= 8 << 30:
        raise ValueError(f"{name}: {size} bytes are too many for one file of an artifact (8 GiB)")
    fields = (
        name.encode().ljust(100, b"\0")
        + b"0000644\0"
        + b"0000000\0" * 2
        + b"%011o\0" % size
        + b"%011o\0" % 0
        + b" " * 8
        + b"0"
        + bytes(100)
        + b"ustar\00000"
        + bytes(64)
        + b"0000000\0" * 2
    ).ljust(BLOCK, b"\0")
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def tar_padding(size: int) -> bytes:
    """The zeros that pad a file's last block."""
    return bytes(-size % BLOCK)


def tar_index(content: memoryview) -> dict[str, tuple[int, int]]:
    """The offset and size of each file of a canonical tar.

    Raises:
        ArtifactError: it is truncated, or a byte outside the files differs from the canonical form.
    """
    found: dict[str, tuple[int, int]] = {}
    position = 0
    while bytes(content[position : position + BLOCK]) != bytes(BLOCK):
        header = bytes(content[position : position + BLOCK])
        if len(header) < BLOCK:
            raise ArtifactError("it is cut short (no end mark)")
        name = header[:100].rstrip(b"\0")
        digits = header[124:135]
        if not re.fullmatch(rb"[0-7]{11}", digits) or not re.fullmatch(rb"[a-z0-9./-]+", name):
            raise ArtifactError("it is not an edgec artifact, or it was altered")
        size, start = int(digits, 8), position + BLOCK
        if header != tar_header(name.decode(), size) or name.decode() in found:
            raise ArtifactError("it was altered (a file header is not canonical)")
        padding = tar_padding(size)
        position = start + size + len(padding)
        if position > len(content):
            raise ArtifactError(f"it is cut short ({len(content)} bytes of at least {position})")
        if bytes(content[start + size : position]) != padding:
            raise ArtifactError("it was altered (bytes between the files)")
        found[name.decode()] = (start, size)
    if bytes(content[position:]) != END_OF_TAR:
        raise ArtifactError("it is cut short, or something was appended to it")
    return found
