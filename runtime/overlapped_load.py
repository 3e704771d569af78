"""Where loading starts: what takes long begins before the modules are imported that do the rest."""

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
    """Load a compiled model for running on this machine.

    Args:
        path: an `.edge` file, or an OCI image layout folder.
        digest: the manifest digest (`sha256:…`) that it must have; chooses one in a folder with several.
        threads: how many to run on; None takes all cores that this process may use. See
            `edgec.runtime.execution.threads`.
        affinity: numbers of the cores to pin the threads to; None lets them float.

    Raises:
        ArtifactError: not an artifact, cut short, altered, or of another format version.
        IncompatibleDevice: this machine lacks something that the artifact needs.
        InputError: a thread count or a core that does not exist.
    """
    artifact = Artifact.open(path, digest=digest, ahead=True)
    from edgec.runtime.artifact_loader import load_artifact

    return load_artifact(artifact, threads, affinity)
