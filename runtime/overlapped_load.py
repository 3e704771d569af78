"""`load`, the entry point: hashing starts in the background, then the modules that do the rest are imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.runtime.artifact.reader import Artifact

if TYPE_CHECKING:
    from edgec.runtime.model import Model


def load(
    path: str | Path,
    *,
    digest: str | None = None,
    threads: int | None = None,
    affinity: Sequence[int] | None = None,
) -> Model:
    """Load a compiled model to run on this machine.

    Args:
        path: an `.edge` file, or an OCI image layout folder.
        digest: manifest digest (`sha256:…`) that the artifact must have; selects one of a folder that holds several.
        threads: number of threads; None takes all cores that this process may use. See
            `edgec.runtime.execution.threads`.
        affinity: cores to pin the threads to; None lets them float.

    Raises:
        ArtifactError: not an artifact, truncated, altered, or of another format version.
        IncompatibleDevice: this machine lacks something that the artifact needs.
        InputError: the thread count is not positive, or a core does not exist.
    """
    artifact = Artifact.open(path, digest=digest, ahead=True)
    with artifact.abandoned_on_error():
        from edgec.runtime.artifact_loader import load_artifact

        return load_artifact(artifact, threads, affinity)
