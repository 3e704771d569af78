"""The root of edgec's error tree.

Errors are split by whose fault they are. Those that a user can fix derive from `EdgecError`: the `edgec` command prints
the message (one or two lines that name the cause and the remedy) and exits with the error's `exit_code`. Anything else
is a defect of edgec and keeps its traceback.

- EdgecError (1)
    - UsageError (2): an option or an argument that makes no sense
    - UnknownTarget (2)
    - BadTargetFile (2)
    - packages add their own below these
"""

from __future__ import annotations


class EdgecError(Exception):
    """An error that the user can fix: the message says how; `exit_code` is the exit status of the process."""

    exit_code: int = 1


class UsageError(EdgecError):
    """An option or argument that makes no sense, alone or with the others."""

    exit_code = 2


class UnknownTarget(UsageError):
    """No target description has this name or alias."""


class BadTargetFile(UsageError):
    """A target description is not valid; the message names the file and the key."""
