"""Errors of an S3-compatible store."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from edgec.fleet.registry.blobs import (
    StoreAway,
)

_ABSENT = {"404", "NoSuchKey", "NotFound", "NoSuchUpload"}


class Absent(StoreAway):
    """The store answers, and the object does not exist."""


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn errors of the store or the network into `StoreAway`, and into `Absent` for a missing object."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        code = str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
        raise (Absent if code in _ABSENT else StoreAway)(errno.EIO, f"the S3 store: {error}") from error
