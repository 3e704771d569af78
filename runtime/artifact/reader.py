"""Read an artifact: an OCI image layout in one canonical, uncompressed tar (`name-version-target.edge`).

Opening an artifact checks the manifest and the config; `Artifact.verify_digests` checks all other blobs. Nothing here
loads or runs code.

Hashing is the longest part of loading, so it starts before the modules that parse a config are imported: those imports
are inside the functions that need them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.runtime.artifact import oci
from edgec.runtime.artifact.blobs import BackgroundHashing, FolderBlobs, map_file
from edgec.runtime.artifact.oci import Descriptor, Manifest
from edgec.runtime.errors import ArtifactError

if TYPE_CHECKING:
    from edgec.runtime.artifact.config import ArtifactConfig
    from edgec.runtime.artifact.weights import Weight
    from edgec.runtime.card import ModelCard

Layer = Descriptor
# Titles of code layers. The format calls the library of pre- and postprocessing `around.so`.
MODEL_LIBRARY, PROCESSING_LIBRARY = "model.so", "around.so"


def program_title(bucket: int) -> str:
    """The title of the layer with the table of calls of a set of input shapes."""
    return f"program-{bucket}.json" if bucket else "program.json"


class Artifact:
    """An open artifact: its config is checked, its layers are mapped and not read yet.

    Attributes:
        path: the file or folder.
        config: the parsed config blob.
        layers: descriptors of all layers in the manifest's order.
        manifest: the parsed manifest.
        manifest_digest: the artifact's identity (`sha256:…`).
        manifest_bytes: the content that this digest is of.
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
        with self.abandoned_on_error():
            self.config: ArtifactConfig = _read_config(self.read(self.manifest.config))

    @staticmethod
    def open(path: str | Path, *, digest: str | None = None, ahead: bool = False) -> Artifact:
        """Open an `.edge` file or an OCI layout folder.

        Args:
            path: the file or folder.
            digest: manifest digest that the artifact must have; selects one of a folder that holds several.
            ahead: start threads that hash everything but code at once; `verify_digests` then waits for them.

        Raises:
            ArtifactError: not an artifact, truncated, altered, or of an unknown format version.
        """
        path = Path(path)
        try:
            opened = _open_folder(path, digest, ahead) if path.is_dir() else _open_tar(path, ahead)
        except ArtifactError as error:
            message = str(error)
            raise ArtifactError(message if str(path) in message else f"{path}: {message}") from error
        with opened.abandoned_on_error():
            if digest is not None and opened.manifest_digest != digest:
                raise ArtifactError(f"{path}: this is artifact {opened.manifest_digest}, not {digest}")
        return opened

    @contextmanager
    def abandoned_on_error(self) -> Iterator[None]:
        """End the background hashing if the block raises: from then on the file may be replaced."""
        try:
            yield
        except BaseException:
            self._hashing.cancel()
            raise

    def blob(self, digest: str) -> memoryview:
        """A blob's bytes as mapped from disk, unchecked (see `read`)."""
        try:
            return self._blobs[digest]
        except KeyError:
            raise ArtifactError(f"{self.path}: blob {digest} is missing") from None

    def read(self, descriptor: Descriptor) -> bytes:
        """A blob's bytes, copied into memory and then checked, so that the returned bytes are the checked ones.

        Raises:
            ArtifactError: the blob is missing, or its size or digest differs.
        """
        content = bytes(self.blob(descriptor.digest))
        if len(content) != descriptor.size or oci.digest_of(content) != descriptor.digest:
            raise ArtifactError(
                f"{self.path}: {descriptor.title or 'a blob'} was altered (its digest differs)"
            )
        return content

    def verify_digests(self, *, skip: Iterable[str] = ()) -> None:
        """Check the size and the SHA-256 of every blob, except those of the media types in `skip`.

        Raises:
            ArtifactError: a blob is missing, truncated or altered; the message names it.
        """
        skipped = frozenset(skip)
        blobs = [blob for blob in self.manifest.all_blobs() if blob.media_type not in skipped]
        # precomputed hashes are used once: a later call hashes the file again
        found = self._hashing.finish()
        self._hashing = self._hash(())
        found |= self._hash(blob.digest for blob in blobs if blob.digest not in found).finish()
        for blob in blobs:
            name = blob.title or "the config"
            if (size := len(self.blob(blob.digest))) != blob.size:
                raise ArtifactError(f"{self.path}: {name} has {size} bytes, not {blob.size}")
            if found[blob.digest] != blob.digest:
                raise ArtifactError(f"{self.path}: {name} was altered (its digest differs)")

    def _hash(self, digests: Iterable[str]) -> BackgroundHashing:
        found = {}
        for digest in digests:
            with suppress(ArtifactError):  # a missing blob is reported when it is requested
                found[digest] = self.blob(digest)
        return BackgroundHashing(found)

    def layer(self, media_type: str, title: str | None = None) -> Layer | None:
        """Find the first layer of a media type (and title); None where there is none."""
        for layer in self.layers:
            if layer.media_type == media_type and title in (None, layer.title):
                return layer
        return None

    def _text(self, media_type: str) -> str | None:
        layer = self.layer(media_type)
        try:
            return None if layer is None else self.read(layer).decode()
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{self.path}: its {media_type} is no text ({error})") from error

    def code(self, title: str = MODEL_LIBRARY) -> bytes:
        """Bytes of a compiled library, checked."""
        layer = self.layer(oci.CODE_TYPE, title)
        if layer is None:
            raise ArtifactError(f"{self.path}: it holds no {title}")
        return self.read(layer)

    def weights(self) -> dict[str, Weight]:
        """All weights by name, as views into the mapped file; call `verify_digests` first.

        Raises:
            ArtifactError: the blob is malformed.
        """
        from edgec.runtime.artifact.weights import read_weights

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
        """The compiler's measurements: errors against the reference, latency, sizes; None without any.

        Raises:
            ArtifactError: they are malformed.
        """
        text = self._text(oci.EVIDENCE_TYPE)
        if text is None:
            return None
        try:
            evidence = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{self.path}: its evidence is malformed ({error})") from error
        if not isinstance(evidence, dict):
            raise ArtifactError(f"{self.path}: its evidence is malformed (no object)")
        return evidence

    def report(self, *, html: bool = True) -> str | None:
        """The report as HTML or as Markdown; None without one."""
        return self._text(oci.REPORT_HTML_TYPE if html else oci.REPORT_MARKDOWN_TYPE)

    def bundled(self) -> dict[str, Layer]:
        """The runtime libraries bundled with the artifact, by file name."""
        return {layer.title: layer for layer in self.layers if layer.media_type == oci.RUNTIME_TYPE}


def _open_tar(path: Path, ahead: bool = False) -> Artifact:
    content = map_file(path)
    files = {name: content[start : start + size] for name, (start, size) in oci.tar_index(content).items()}
    if bytes(files.pop(oci.LAYOUT_FILE, b"")) != oci.LAYOUT_CONTENT:
        raise ArtifactError("it holds no OCI image layout")
    index = bytes(files.pop(oci.INDEX_FILE, b""))
    prefix = oci.blob_path("sha256:")
    if any(not name.startswith(prefix) for name in files):
        raise ArtifactError("it holds unexpected files")
    blobs = {f"sha256:{name.removeprefix(prefix)}": blob for name, blob in files.items()}
    manifest_bytes = _manifest_of_index(index, None, blobs)
    artifact = Artifact(path, manifest_bytes, blobs, ahead)
    with artifact.abandoned_on_error():
        if index != oci.index_bytes(artifact.manifest, manifest_bytes):
            raise ArtifactError("its index was altered")
        expected = [artifact.manifest_digest, *(blob.digest for blob in artifact.manifest.all_blobs())]
        if list(blobs) != expected:
            raise ArtifactError("its blobs are not those of its manifest")
    return artifact


def _open_folder(folder: Path, digest: str | None, ahead: bool = False) -> Artifact:
    blobs = FolderBlobs(folder)
    if digest is not None:
        return Artifact(folder, _checked_manifest(digest, blobs), blobs, ahead)
    try:
        index = (folder / oci.INDEX_FILE).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{folder}: this folder is not an OCI image layout (no index.json)") from error
    return Artifact(folder, _manifest_of_index(index, folder, blobs), blobs, ahead)


def _manifest_of_index(index: bytes, folder: Path | None, blobs: Mapping[str, memoryview]) -> bytes:
    try:
        entries = json.loads(index)["manifests"]
        digests = [Descriptor.parse(entry).digest for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"its index is malformed ({error})") from error
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

    from edgec.runtime.artifact.config import FORMAT_VERSION, ArtifactConfig
    from edgec.runtime.schema import fault_of

    try:
        document = json.loads(content)
        version = document["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"its config is malformed ({error})") from error
    if not isinstance(version, int):
        raise ArtifactError(f"its config is malformed (format version {version!r:.40})")
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
    except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair, and no text contains one
        raise ArtifactError(f"its config is malformed ({error})") from error
