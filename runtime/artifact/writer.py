"""Write artifacts, reproducibly and atomically."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgec.runtime.artifact import oci
from edgec.runtime.artifact.oci import Descriptor, Manifest
from edgec.runtime.artifact.reader import MODEL_LIBRARY, PROCESSING_LIBRARY
from edgec.targets.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.runtime.artifact.config import ArtifactConfig
    from edgec.runtime.artifact.weights import WeightsBlob


def check_replaceable(path: Path) -> None:
    """Refuse a path where a new file would take the place of something that is no file.

    Raises:
        UsageError: it is a folder, or a device such as `/dev/null`, a pipe or a socket.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device, pipe or socket"
        raise UsageError(f"{path}: is {kind}, and a file would replace it: name a file")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically: a temporary file beside `path` replaces it once all is on disk, or is removed.

    Raises:
        UsageError: `path` is something else than a file.
    """
    import tempfile

    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    finally:
        with suppress(FileNotFoundError):  # it took its place
            Path(name).unlink()


class _Blob:
    """A blob to write: bytes, or weights in pieces."""

    def __init__(self, media_type: str, title: str, content: bytes | WeightsBlob) -> None:
        self._content = content
        self.size = len(content) if isinstance(content, bytes) else content.size
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        self.descriptor = Descriptor(media_type, f"sha256:{digest.hexdigest()}", self.size, title)

    def chunks(self) -> Iterator[bytes | memoryview]:
        if isinstance(self._content, bytes):
            yield self._content
        else:
            yield from self._content.chunks()


def write_artifact(
    path: str | Path,
    *,
    config: ArtifactConfig,
    code: bytes,
    weights: Mapping[str, npt.NDArray[Any]],
    labels: Iterable[str] | None = None,
    evidence: Mapping[str, Any] | None = None,
    report_html: str | None = None,
    report_markdown: str | None = None,
    bundled: Mapping[str, bytes] | None = None,
    fallback: Mapping[str, bytes] | None = None,
    around: bytes | None = None,
    buckets: Mapping[str, bytes] | None = None,
    programs: Mapping[str, bytes] | None = None,
) -> str:
    """Write an artifact and return its manifest's digest; equal arguments give equal bytes.

    Args:
        path: the `.edge` file, written atomically.
        config: the config blob; its card's labels move to a layer of their own.
        code: the compiled library, for the target's architecture.
        weights: arrays by name, aligned in the file to 64 bytes so that they can be mapped.
        labels: class names by index; None takes the card's.
        evidence: the compiler's measurements (JSON-serialisable).
        report_html: the report for a browser.
        report_markdown: the report for a terminal.
        bundled: runtime libraries for the target by file name (`libtvm_runtime.so`).
        fallback: ONNX graphs by the `layer` name of the segments that need them.
        around: the compiled library of pre- and postprocessing, whose functions the config lists as `around`.
        buckets: libraries of further input shapes by the `layer` name of their buckets.
        programs: tables of the calls of a run by title (see `compiler/c_library/table.py`), for `libedgec`.
    """
    import msgspec

    from edgec.runtime.artifact.weights import WeightsBlob

    path = Path(path)
    if config.pipeline is not None:
        labels = config.pipeline.labels if labels is None else labels
        config = msgspec.structs.replace(config, pipeline=msgspec.structs.replace(config.pipeline, labels=()))
    layers = [_Blob(oci.CODE_TYPE, MODEL_LIBRARY, code), *_named(oci.CODE_TYPE, buckets)]
    if around is not None:
        layers.append(_Blob(oci.CODE_TYPE, PROCESSING_LIBRARY, around))
    layers += _named(oci.PROGRAM_TYPE, programs)
    if weights:
        layers.append(_Blob(oci.WEIGHTS_TYPE, "weights.safetensors", WeightsBlob(weights)))
    if lines := _label_lines(labels or ()):
        layers.append(_Blob(oci.LABELS_TYPE, "labels.txt", lines))
    layers += _named(oci.FALLBACK_TYPE, fallback) + _named(oci.RUNTIME_TYPE, bundled)
    if evidence is not None:
        layers.append(_Blob(oci.EVIDENCE_TYPE, "evidence.json", oci.canonical_json(evidence)))
    if report_html is not None:
        layers.append(_Blob(oci.REPORT_HTML_TYPE, "report.html", report_html.encode()))
    if report_markdown is not None:
        layers.append(_Blob(oci.REPORT_MARKDOWN_TYPE, "report.md", report_markdown.encode()))
    config_blob = _Blob(oci.CONFIG_TYPE, "", oci.canonical_json(msgspec.to_builtins(config)))
    manifest = Manifest(
        config_blob.descriptor, tuple(blob.descriptor for blob in layers), _annotations(config)
    )
    blobs = {blob.descriptor.digest: blob for blob in (config_blob, *layers)}
    content = manifest.to_bytes()
    with replacing(path) as file:
        write_tar(file, manifest, content, {digest: blob.chunks() for digest, blob in blobs.items()})
    return oci.digest_of(content)


def _named(media_type: str, contents: Mapping[str, bytes] | None) -> list[_Blob]:
    """A layer for each of `contents`, ordered by name."""
    return [_Blob(media_type, name, content) for name, content in sorted((contents or {}).items())]


def _label_lines(labels: Iterable[str]) -> bytes:
    names = list(labels)
    if any("\n" in name for name in names):
        raise ValueError("a label must be one line")
    return "".join(f"{name}\n" for name in names).encode()


def _annotations(config: ArtifactConfig) -> dict[str, str]:
    return {
        oci.TITLE: config.name,
        oci.VERSION: config.version,
        oci.TARGET: config.target,
        oci.REF_NAME: f"{config.version}-{config.target}",
    }


def write_tar(
    file: BinaryIO,
    manifest: Manifest,
    manifest_bytes: bytes,
    blobs: Mapping[str, Iterable[bytes | memoryview]],
) -> None:
    """Write the canonical tar of a layout that holds this one artifact."""

    def add(name: str, size: int, chunks: Iterable[bytes | memoryview]) -> None:
        file.write(oci.tar_header(name, size))
        for chunk in chunks:
            file.write(chunk)
        file.write(oci.tar_padding(size))

    index = oci.index_bytes(manifest, manifest_bytes)
    add(oci.LAYOUT_FILE, len(oci.LAYOUT_CONTENT), [oci.LAYOUT_CONTENT])
    add(oci.INDEX_FILE, len(index), [index])
    add(oci.blob_path(oci.digest_of(manifest_bytes)), len(manifest_bytes), [manifest_bytes])
    for blob in manifest.all_blobs():
        add(oci.blob_path(blob.digest), blob.size, blobs[blob.digest])
    file.write(oci.END_OF_TAR)
