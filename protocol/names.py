"""The grammar of names, which end up in topics, file names and URLs."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

from edgec.protocol.errors import ProtocolError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""Name of a fleet, device, stream, shadow, job or model: 1 to 64 letters, digits, `.`, `_` or `-`."""
Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]
"""`sha256:` followed by 64 lower-case hexadecimal digits."""

_NAME = re.compile(NAME_PATTERN)


def check_name(value: str, what: str = "name") -> str:
    """Return `value` if it is a valid name.

    Raises:
        ProtocolError: It is empty, too long, or contains characters with a meaning in topics or paths.
    """
    # `$` would let a trailing newline pass.
    if not _NAME.fullmatch(value):
        raise ProtocolError(f"{value!r} is not a valid {what}: use 1 to 64 letters, digits, '.', '_' or '-'")
    return value
