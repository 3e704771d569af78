"""Secrets of operators, devices and browsers. They are random and long, so storing a plain hash is enough."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def new_secret(prefix: str) -> str:
    """A 256-bit secret; the prefix tells people and secret scanners what it is for."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def secret_hash(secret: str) -> str:
    """The hash that is stored in place of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
