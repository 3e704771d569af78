"""Hashes of the devices' broker passwords, in the format of Mosquitto's password file, so that either broker can
check them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os

from edgec.fleet.access.secrets import secret_hash

ITERATIONS = 101
"""Mosquitto's default. The passwords are random with 256 bits: more iterations would only slow connections down."""


def hash_password(password: str) -> str:
    """`$7$<iterations>$<salt>$<PBKDF2-SHA512>`, as `mosquitto_passwd` writes it."""
    salt = os.urandom(12)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def check_password(known: str, password: str) -> bool:
    """Whether `known` is the hash of `password`; hashes of earlier versions (plain SHA-256) are accepted, too."""
    if not known.startswith("$7$"):
        return bool(known) and hmac.compare_digest(known, secret_hash(password))
    try:
        _empty, _kind, iterations, salt, key = known.split("$")
        wanted = base64.b64decode(key, validate=True)
        found = hashlib.pbkdf2_hmac(
            "sha512", password.encode("utf-8", "surrogatepass"), base64.b64decode(salt), int(iterations)
        )
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(wanted, found)
