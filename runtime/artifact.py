"""The artifact: an OCI image layout in one canonical, uncompressed tar (``name-version-target.edge``).

Reading checks as it goes: opening an artifact checks the manifest and the config,
:meth:`Artifact.verify_digests` checks all the rest. Nothing here loads or runs code.

Hashing takes the longest of all that loading does, so it begins before the modules are imported that read a config:
those are imported where they are needed.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgec.runtime import oci
from edgec.runtime.errors import ArtifactError
from edgec.runtime.oci import Descriptor, Manifest

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.runtime.card import ModelCard
    from edgec.runtime.config import ArtifactConfig
    from edgec.runtime.weights import Weight, WeightsBlob

Layer = Descriptor
MODEL_LIBRARY, AROUND_LIBRARY = "model.so", "around.so"


def _map(path: Path) -> memoryview:
    """The file's bytes, mapped copy-on-write: shared with every other process that maps it, and never
    written.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ArtifactError(f"{path}: the file is empty")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from error


class _Hashing:
    """Digests of blobs, computed by threads of their own from now on, as many as can be had.

    The threads end with the process: a load that was refused does not keep it until all is hashed.
    """

    def __init__(self, blobs: Mapping[str, memoryview]) -> None:
        self._blobs = blobs
        self._left = sorted(blobs.items(), key=lambda blob: len(blob[1]))
        self._found: dict[str, str] = {}
        count = min(4, os.cpu_count() or 1, len(blobs))
        self._threads: list[threading.Thread] = []
        with suppress(RuntimeError):  # no thread can be started: whoever waits hashes
            for _ in range(count):
                thread = threading.Thread(target=self._work, name="edgec-hash", daemon=True)
                thread.start()
                self._threads.append(thread)

    def _work(self) -> None:
        with suppress(IndexError):  # none is left
            while True:
                name, content = self._left.pop()
                self._found[name] = oci.digest_of(content)

    def finish(self) -> dict[str, str]:
        """The blobs' digests, by the digests that they should have."""
        self._work()
        for thread in self._threads:
            thread.join()
        # what a thread began and could not end is hashed here, so that its error comes to who asks
        return {
            name: self._found.get(name) or oci.digest_of(content) for name, content in self._blobs.items()
        }


class Artifact:
    """An artifact that has been opened: its config is checked, its layers are mapped and not read yet.

    ``config`` is the config blob, ``layers`` are the descriptors of all layers in the manifest's order,
    ``manifest_digest`` (``sha256:…``) is the artifact's identity, ``manifest_bytes`` what that digest is of.
    """

    def __init__(
        self, path: Path, manifest_bytes: bytes, blobs: Mapping[str, memoryview], ahead: bool
    ) -> None:
        self.path = path
        self.manifest_bytes = manifest_bytes
        self.manifest_digest = oci.digest_of(manifest_bytes)
        self.manifest: Manifest = oci.parse_manifest(manifest_bytes)
        self.layers: tuple[Layer, ...] = self.manifest.layers
        self._blobs = blobs
        blobs_ahead = self.manifest.all_blobs() if ahead else ()
        self._hashing = self._hash(blob.digest for blob in blobs_ahead if blob.media_type != oci.CODE_TYPE)
        self.config: ArtifactConfig = _read_config(self.read(self.manifest.config))

    @staticmethod
    def open(path: str | Path, *, digest: str | None = None, ahead: bool = False) -> Artifact:
        """Open an ``.edge`` file, or the artifact ``digest`` of an OCI layout folder (where there are
        several).

        With ``ahead`` other threads begin at once to hash all but its code, which :meth:`verify_digests` then waits
        for.

        Raises:
            ArtifactError: no artifact, cut short, altered, or of a format version unknown here.
        """
        path = Path(path)
        try:
            opened = _open_folder(path, digest, ahead) if path.is_dir() else _open_tar(path, ahead)
        except ArtifactError as error:
            message = str(error)
            raise ArtifactError(message if str(path) in message else f"{path}: {message}") from error
        if digest is not None and opened.manifest_digest != digest:
            raise ArtifactError(f"{path}: this is artifact {opened.manifest_digest}, not {digest}")
        return opened

    def blob(self, digest: str) -> memoryview:
        """A blob's bytes as they are on disk, mapped, and not checked (see :meth:`read`)."""
        try:
            return self._blobs[digest]
        except KeyError:
            raise ArtifactError(f"{self.path}: blob {digest} is missing") from None

    def read(self, descriptor: Descriptor) -> bytes:
        """A blob's bytes, copied into memory first and then checked: what is returned is what was checked.

        Raises:
            ArtifactError: missing, of another size, or of another digest.
        """
        content = bytes(self.blob(descriptor.digest))
        if len(content) != descriptor.size or oci.digest_of(content) != descriptor.digest:
            raise ArtifactError(
                f"{self.path}: {descriptor.title or 'a blob'} was altered (its digest differs)"
            )
        return content

    def verify_digests(self, *, skip: Iterable[str] = ()) -> None:
        """Check the size and the SHA-256 of every blob, except those of the media types in ``skip``.

        Raises:
            ArtifactError: one is missing, cut short or altered; the message names it.
        """
        skipped = frozenset(skip)
        blobs = [blob for blob in self.manifest.all_blobs() if blob.media_type not in skipped]
        # what was hashed ahead serves once: a later check is of what the file has then
        ahead, self._hashing = self._hashing, self._hash(())
        found = ahead.finish()
        found |= self._hash(blob.digest for blob in blobs if blob.digest not in found).finish()
        for blob in blobs:
            name = blob.title or "the config"
            if (size := len(self.blob(blob.digest))) != blob.size:
                raise ArtifactError(f"{self.path}: {name} has {size} bytes, not {blob.size}")
            if found[blob.digest] != blob.digest:
                raise ArtifactError(f"{self.path}: {name} was altered (its digest differs)")

    def _hash(self, digests: Iterable[str]) -> _Hashing:
        found = {}
        for digest in digests:
            with suppress(ArtifactError):  # it is missing, which is said when it is asked for
                found[digest] = self.blob(digest)
        return _Hashing(found)

    def layer(self, media_type: str, title: str | None = None) -> Layer | None:
        """The first layer of this media type (and title), or None."""
        for layer in self.layers:
            if layer.media_type == media_type and title in (None, layer.title):
                return layer
        return None

    def _text(self, media_type: str) -> str | None:
        layer = self.layer(media_type)
        return None if layer is None else self.read(layer).decode()

    def code(self, title: str = MODEL_LIBRARY) -> bytes:
        """A compiled library, checked: the model's, or another of its title."""
        layer = self.layer(oci.CODE_TYPE, title)
        if layer is None:
            raise ArtifactError(f"{self.path}: it holds no {title}")
        return self.read(layer)

    def weights(self) -> dict[str, Weight]:
        """All weights by name: views into the mapped file. Their digest is checked by
        :meth:`verify_digests`, which is called before.

        Raises:
            ArtifactError: they are not well-formed.
        """
        from edgec.runtime.weights import read_weights

        layer = self.layer(oci.WEIGHTS_TYPE)
        try:
            return {} if layer is None else read_weights(self.blob(layer.digest))
        except ArtifactError as error:
            raise ArtifactError(f"{self.path}: {error}") from error

    def labels(self) -> tuple[str, ...]:
        """Class names by index; empty where the artifact has none."""
        text = self._text(oci.LABELS_TYPE)
        return () if text is None else tuple(text.splitlines())

    def card(self) -> ModelCard | None:
        """The model card with its labels, or None for a model without one."""
        pipeline = self.config.pipeline
        if pipeline is None:
            return None
        import msgspec

        return msgspec.structs.replace(pipeline, labels=self.labels())

    def evidence(self) -> dict[str, Any] | None:
        """What the compiler measured: errors against the reference, latency, sizes. None if it did not."""
        text = self._text(oci.EVIDENCE_TYPE)
        return None if text is None else dict(json.loads(text))

    def report(self, *, html: bool = True) -> str | None:
        """The readable report, as HTML or as Markdown."""
        return self._text(oci.REPORT_HTML_TYPE if html else oci.REPORT_MARKDOWN_TYPE)

    def bundled(self) -> dict[str, Layer]:
        """The runtime libraries that travel with the artifact, by file name."""
        return {layer.title: layer for layer in self.layers if layer.media_type == oci.RUNTIME_TYPE}


def _open_tar(path: Path, ahead: bool = False) -> Artifact:
    content = _map(path)
    files = {name: content[start : start + size] for name, (start, size) in oci.tar_index(content).items()}
    if bytes(files.pop(oci.LAYOUT_FILE, b"")) != oci.LAYOUT_CONTENT:
        raise ArtifactError("it holds no OCI image layout")
    index = bytes(files.pop(oci.INDEX_FILE, b""))
    prefix = oci.blob_path("sha256:")
    if any(not name.startswith(prefix) for name in files):
        raise ArtifactError("it holds files that no artifact has")
    blobs = {f"sha256:{name.removeprefix(prefix)}": blob for name, blob in files.items()}
    manifest_bytes = _manifest_of_index(index, None, blobs)
    artifact = Artifact(path, manifest_bytes, blobs, ahead)
    if index != oci.index_bytes(artifact.manifest, manifest_bytes):
        raise ArtifactError("its index was altered")
    expected = [artifact.manifest_digest, *(blob.digest for blob in artifact.manifest.all_blobs())]
    if list(blobs) != expected:
        raise ArtifactError("its blobs are not those of its manifest")
    return artifact


class _FolderBlobs(Mapping[str, memoryview]):
    """The blobs of a layout folder, each mapped when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped: dict[str, memoryview] = {}

    def __getitem__(self, digest: str) -> memoryview:
        if digest not in self._mapped:
            path = self._folder / oci.blob_path(digest)
            if not oci.is_digest(digest) or not path.is_file():
                raise KeyError(digest)
            self._mapped[digest] = _map(path)
        return self._mapped[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self._mapped)

    def __len__(self) -> int:
        return len(self._mapped)


def _open_folder(folder: Path, digest: str | None, ahead: bool = False) -> Artifact:
    blobs = _FolderBlobs(folder)
    if digest is not None:
        return Artifact(folder, _checked_manifest(digest, blobs), blobs, ahead)
    try:
        index = (folder / oci.INDEX_FILE).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{folder}: this folder is no OCI image layout (no index.json)") from error
    return Artifact(folder, _manifest_of_index(index, folder, blobs), blobs, ahead)


def _manifest_of_index(index: bytes, folder: Path | None, blobs: Mapping[str, memoryview]) -> bytes:
    try:
        entries = json.loads(index)["manifests"]
        digests = [Descriptor.parse(entry).digest for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"its index is not well-formed ({error})") from error
    if len(digests) != 1:
        held = f"it holds {len(digests)} artifacts" if digests else "it holds no artifact"
        raise ArtifactError(f"{held}; name one by its digest" if folder and digests else held)
    return _checked_manifest(digests[0], blobs)


def _checked_manifest(digest: str, blobs: Mapping[str, memoryview]) -> bytes:
    try:
        content = bytes(blobs[digest])
    except KeyError:
        raise ArtifactError(f"it holds no artifact {digest}") from None
    if oci.digest_of(content) != digest:
        raise ArtifactError("its manifest was altered (its digest differs)")
    return content


def _read_config(content: bytes) -> ArtifactConfig:
    import msgspec

    from edgec.runtime.config import FORMAT_VERSION, ArtifactConfig
    from edgec.runtime.schema import fault_of

    try:
        document = json.loads(content)
        version = document["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"its config is not well-formed ({error})") from error
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"it has format version {version}, this edgec reads version {FORMAT_VERSION}; "
            + ("update edgec on this machine" if version > FORMAT_VERSION else "compile the model again")
        )
    try:
        return msgspec.convert(document, ArtifactConfig)
    except msgspec.ValidationError as error:
        fault = fault_of(error, document, ArtifactConfig)
        raise ArtifactError(f"its config is not valid: {'.'.join(fault.keys)}: {fault.message}") from error


# ---------------------------------------------------------------- writing


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` that takes its place, whole and on disk, when all went well, and vanishes
    otherwise.
    """
    import tempfile

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
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise


class _Blob:
    """A blob that is about to be written: bytes, or weights in pieces."""

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
) -> str:
    """Write an artifact and return its manifest's digest. The same arguments give the same bytes.

    Args:
        path: the ``.edge`` file; it appears whole or not at all.
        config: the config blob; the labels of its card move to a layer of their own.
        code: the compiled library, of the target's architecture.
        weights: arrays by name; they come to lie at 64-byte boundaries of the file, to be mapped from it.
        labels: class names by index; None takes the card's.
        evidence: what was measured (JSON-serialisable).
        report_html: the report for a browser.
        report_markdown: the report for a terminal.
        bundled: runtime libraries for the target by file name (``libtvm_runtime.so``).
        fallback: ONNX graphs by the ``layer`` name of the segments that need them.
        around: the compiled library of pre- and post-processing, whose functions the config names.
        buckets: the libraries of further input shapes by the ``layer`` name of the buckets that need them.
    """
    import msgspec

    from edgec.runtime.weights import WeightsBlob

    path = Path(path)
    if config.pipeline is not None:
        labels = config.pipeline.labels if labels is None else labels
        config = msgspec.structs.replace(config, pipeline=msgspec.structs.replace(config.pipeline, labels=()))
    layers = [_Blob(oci.CODE_TYPE, MODEL_LIBRARY, code)]
    layers += [_Blob(oci.CODE_TYPE, name, content) for name, content in sorted((buckets or {}).items())]
    if around is not None:
        layers.append(_Blob(oci.CODE_TYPE, AROUND_LIBRARY, around))
    if weights:
        layers.append(_Blob(oci.WEIGHTS_TYPE, "weights.safetensors", WeightsBlob(weights)))
    names = list(labels or ())
    if any("\n" in name for name in names):
        raise ValueError("a label must be one line")
    if names:
        layers.append(_Blob(oci.LABELS_TYPE, "labels.txt", "".join(f"{name}\n" for name in names).encode()))
    layers += [_Blob(oci.FALLBACK_TYPE, name, content) for name, content in sorted((fallback or {}).items())]
    layers += [_Blob(oci.RUNTIME_TYPE, name, content) for name, content in sorted((bundled or {}).items())]
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
    with _replacing(path) as file:
        _write_tar(file, manifest, content, {digest: blob.chunks() for digest, blob in blobs.items()})
    return oci.digest_of(content)


def _annotations(config: ArtifactConfig) -> dict[str, str]:
    return {
        oci.TITLE: config.name,
        oci.VERSION: config.version,
        oci.TARGET: config.target,
        oci.REF_NAME: f"{config.version}-{config.target}",
    }


def _write_tar(
    file: BinaryIO,
    manifest: Manifest,
    manifest_bytes: bytes,
    blobs: Mapping[str, Iterable[bytes | memoryview]],
) -> None:
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


def unpack_to_layout(path: str | Path, folder: str | Path) -> str:
    """Add the artifact of an ``.edge`` file to an OCI layout folder (made if need be); return its digest.

    Blobs that the folder has already are left as they are. The index names the artifact last, when all
    its blobs are on disk.

    Raises:
        ArtifactError: the file is damaged; the folder's index then stays as it was.
    """
    artifact, folder = Artifact.open(path), Path(folder)
    artifact.verify_digests()
    contents = {artifact.manifest_digest: memoryview(artifact.manifest_bytes)}
    contents |= {blob.digest: artifact.blob(blob.digest) for blob in artifact.manifest.all_blobs()}
    for digest, content in contents.items():
        place = folder / oci.blob_path(digest)
        if not place.is_file() or place.stat().st_size != len(content):
            with _replacing(place) as file:
                file.write(content)
    if not (folder / oci.LAYOUT_FILE).is_file():
        with _replacing(folder / oci.LAYOUT_FILE) as file:
            file.write(oci.LAYOUT_CONTENT)
    add_to_index(folder, artifact.manifest_bytes)
    return artifact.manifest_digest


def add_to_index(folder: str | Path, manifest_bytes: bytes) -> None:
    """Name an artifact, whose blobs are in the layout folder already, in the folder's ``index.json``."""
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
    with _replacing(index_file) as file:
        file.write(oci.canonical_json(index))


def pack_from_layout(folder: str | Path, digest: str, path: str | Path) -> None:
    """Write the artifact ``digest`` of an OCI layout folder as an ``.edge`` file: the same bytes as it
    once had.

    Raises:
        ArtifactError: the folder lacks a blob, or one is damaged; no file is written then.
    """
    artifact = Artifact.open(folder, digest=digest)
    artifact.verify_digests()
    blobs = {blob.digest: [artifact.blob(blob.digest)] for blob in artifact.manifest.all_blobs()}
    with _replacing(Path(path)) as file:
        _write_tar(file, artifact.manifest, artifact.manifest_bytes, blobs)
