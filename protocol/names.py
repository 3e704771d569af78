"""Names that become part of a topic, a file name or a URL: one grammar for all of them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

from edgec.protocol.errors import ProtocolError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A fleet, device, stream, shadow, job or model: 1 to 64 of letters, digits, ``.``, ``_`` and ``-``."""
Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]
"""``sha256:`` and 64 lower-case hexadecimal digits."""

_NAME = re.compile(NAME_PATTERN)


def check_name(value: str, what: str = "name") -> str:
    """Return ``value`` when it is a legal name.

    Raises:
        ProtocolError: it is empty, too long, or has characters that topics or files give a meaning to.
    """
    # `$` would let a trailing newline pass.
    if not _NAME.fullmatch(value):
        raise ProtocolError(f"{value!r} is no {what}: use 1 to 64 letters, digits, '.', '_' or '-'")
    return value
