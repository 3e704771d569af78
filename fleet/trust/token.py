"""Signing keys on a PKCS#11 token (a smart card, a YubiKey, an HSM): used by name, never read.

In the folder of keys such a key is a small file that names the token and the object, and holds the public half.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import HSMSigner, Signature, Signer, SSlibKey

from edgec.fleet.errors import FleetError

MODULE_ENV = "PYKCS11LIB"
PIN_ENV = "EDGEC_TOKEN_PIN"
SUFFIX = ".token"


@dataclass(frozen=True, slots=True)
class TokenUri:
    """A key as RFC 7512 names it: `pkcs11:token=LABEL;id=%02?module-path=/usr/lib/…/module.so`."""

    token: str
    key_id: int
    module: str | None

    @staticmethod
    def parse(text: str) -> TokenUri:
        """Read a URI.

        Raises:
            FleetError: it does not name a token and a key.
        """
        scheme, _, rest = text.partition(":")
        path, _, query = rest.partition("?")
        parts = {key: unquote_to_bytes(value) for key, value in _pairs(path, ";").items()}
        token, key_id = parts.get("token", b""), parts.get("id", b"")
        if scheme != "pkcs11" or not token or not key_id or len(key_id) > 8:
            raise FleetError(f"{text!r} names no key on a token: write 'pkcs11:token=LABEL;id=%02'")
        module = unquote_to_bytes(_pairs(query, "&").get("module-path", "")).decode()
        return TokenUri(token.decode(), int.from_bytes(key_id, "big"), module or None)


def _pairs(text: str, separator: str) -> dict[str, str]:
    return {key: value for key, _, value in (item.partition("=") for item in text.split(separator) if item)}


def _ask_pin(_what: str) -> str:
    return os.environ.get(PIN_ENV) or getpass("PIN of the token: ")


class TokenSigner(Signer):
    """Signs on the token. Errors of token, key or PIN become a `FleetError`."""

    def __init__(self, uri: TokenUri, public: SSlibKey) -> None:
        self._uri, self._public = uri, public

    @property
    def public_key(self) -> SSlibKey:
        """The public half."""
        return self._public

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Any, secrets_handler: Any = None) -> Signer:  # noqa: ANN401
        """The signer of a URI; securesystemslib's interface."""
        return cls(TokenUri.parse(priv_key_uri), public_key)

    def sign(self, payload: bytes) -> Signature:
        """Sign with the token's key."""
        with _driver(self._uri):
            signer = HSMSigner(self._uri.key_id, self._public, _ask_pin, self._uri.token)
            return signer.sign(payload)


@contextmanager
def _driver(uri: TokenUri) -> Iterator[None]:
    """Select the token's driver, and turn its errors into `FleetError`."""
    if uri.module:
        os.environ[MODULE_ENV] = uri.module
    if not os.environ.get(MODULE_ENV):
        raise FleetError(
            f"which driver has the token? Add '?module-path=/…/module.so' to the URI, or set {MODULE_ENV}"
        )
    try:
        yield
    except UnsupportedLibraryError as error:
        raise FleetError("keys on a token need the extra: pip install 'edgec[pkcs11]'") from error
    except Exception as error:
        # The driver's package is an extra: its exception classes cannot be imported unconditionally.
        if not isinstance(error, ValueError) and not type(error).__module__.startswith("pkcs11"):
            raise
        raise FleetError(f"the token {uri.token!r}: {str(error) or type(error).__name__}") from error


def import_key(text: str, path: Path) -> TokenSigner:
    """Record the key that `text` names in the file `path`, with its public half read from the token.

    Raises:
        FleetError: the URI, the driver, the token or the PIN is wrong; or the file exists.
    """
    uri = TokenUri.parse(text)
    with _driver(uri):
        _hsm, public = HSMSigner.import_(uri.key_id, uri.token, _ask_pin)
    content = {"uri": text, "keyid": public.keyid, "public": public.to_dict()}
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(json.dumps(content, indent=1) + "\n")
    except FileExistsError as error:
        raise FleetError(f"{path} exists already: a signing key is never overwritten") from error
    return TokenSigner(uri, public)


def load_token(path: Path) -> TokenSigner:
    """Load a key file of `import_key`; the token is needed only for signing.

    Raises:
        FleetError: it is not such a file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        public = SSlibKey.from_dict(content["keyid"], dict(content["public"]))
        return TokenSigner(TokenUri.parse(content["uri"]), public)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FleetError(f"{path} names no key on a token ({error})") from error
