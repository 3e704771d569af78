"""The runtime's errors, split by whose fault they are (exit codes of the CLI in brackets).

- EdgecError
    - ArtifactError (3): the file is not an artifact, is truncated, altered, or of an unknown format
    - IncompatibleDevice (4): the artifact is intact, but this machine cannot run it
    - InputError (5): the caller's arrays, frames or samples do not fit the model
    - BrokenOutput (6): the model computed something that is no number
    - GpuFault (6, in `edgec.runtime.gpu.fault`): a kernel failed or took too long, and the run's results are lost
    - UsageError (2)
        - CardError: a model card is not valid
"""

from __future__ import annotations

from edgec.targets.errors import EdgecError, UsageError


class ArtifactError(EdgecError):
    """The artifact is damaged, altered or truncated, or not an artifact. None of its code was executed."""

    exit_code = 3


class IncompatibleDevice(EdgecError):
    """The artifact needs something that this machine lacks; the message says what is missing, and where."""

    exit_code = 4


class InputError(EdgecError):
    """Names, shapes or dtypes of the inputs do not fit; the message says what was expected."""

    exit_code = 5


class BrokenOutput(EdgecError):
    """The model returned a value that is not finite, or no result at all."""

    exit_code = 6


class CardError(UsageError):
    """A model card is not valid; the message names the file, the line and the key."""


__all__ = ["ArtifactError", "BrokenOutput", "CardError", "EdgecError", "IncompatibleDevice", "InputError"]
