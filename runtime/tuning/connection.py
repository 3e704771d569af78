"""The connection between a compile and the device that times its candidates.

A frame is a JSON object and some bytes. Both sides prove that they know the token by answering each other's challenge,
and every frame carries a code made with a key of that exchange and its number: whoever does not know the token can
neither call the server nor speak in the middle of a call. Nothing is encrypted: kernels and timings are no secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import struct
from typing import Any

from edgec.runtime.errors import EdgecError

MAGIC = b"edgec-tune/1\n"
SECRET_BYTES = 32
LARGEST = 1 << 30  # bytes of a frame
TOKEN_LETTERS = 16  # the shortest token
_HEAD = struct.Struct(">IQ")


class TuneError(EdgecError):
    """The device cannot be used for tuning; the message says why."""


class Refused(TuneError):
    """The other side does not know the token."""


def check_token(token: str) -> bytes:
    """A token as bytes.

    Raises:
        TuneError: it is too short to be a secret.
    """
    if len(token.strip()) < TOKEN_LETTERS:
        raise TuneError(
            f"the token has {len(token.strip())} letters; {TOKEN_LETTERS} are needed to be hard to guess"
        )
    return token.strip().encode()


class Connection:
    """An authenticated connection; `exchange` is done by its constructor.

    Args:
        link: a connected socket.
        token: what both sides know.
        serves: whether this side is the device.

    Raises:
        Refused: the other side's proof is wrong.
        TuneError: it speaks another protocol, or went away.
    """

    def __init__(self, link: socket.socket, token: bytes, *, serves: bool) -> None:
        self._link = link
        ours = os.urandom(SECRET_BYTES)
        self._write(MAGIC + ours)
        if self._read(len(MAGIC)) != MAGIC:
            raise TuneError("the other side does not speak this version of the tuning protocol")
        theirs = self._read(SECRET_BYTES)
        pair = theirs + ours if serves else ours + theirs  # the client's comes first
        names = (b"device", b"compiler") if serves else (b"compiler", b"device")
        proofs = [hmac.digest(token, name + pair, hashlib.sha256) for name in names]
        self._write(proofs[0])
        if not hmac.compare_digest(self._read(SECRET_BYTES), proofs[1]):
            raise Refused("the token is not the one of the other side")
        keys = [hmac.digest(token, b"key of " + name + pair, hashlib.sha256) for name in names]
        self._keys, self._numbers = keys, [0, 0]

    def send(self, message: dict[str, Any], blob: bytes = b"") -> None:
        """Send a frame."""
        text = json.dumps(message).encode()
        head = _HEAD.pack(len(text), len(blob))
        self._write(head + text + blob + self._code(0, head + text, blob))

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next frame.

        Raises:
            TuneError: the connection ended, or a frame is damaged.
        """
        head = self._read(_HEAD.size)
        letters, size = _HEAD.unpack(head)
        if letters + size > LARGEST:
            raise TuneError("a frame is too large")
        text, blob = self._read(letters), self._read(size)
        if not hmac.compare_digest(self._read(SECRET_BYTES), self._code(1, head + text, blob)):
            raise TuneError("a frame was altered on its way")
        message: dict[str, Any] = json.loads(text)
        return message, blob

    def _code(self, side: int, text: bytes, blob: bytes) -> bytes:
        made = hmac.new(self._keys[side], struct.pack(">Q", self._numbers[side]), hashlib.sha256)
        self._numbers[side] += 1
        made.update(text)
        made.update(blob)
        return made.digest()

    def _write(self, content: bytes) -> None:
        try:
            self._link.sendall(content)
        except OSError as error:
            raise TuneError(f"the connection ended: {error}") from error

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self._link.recv(min(size - len(parts), 1 << 20))
            except OSError as error:
                raise TuneError(f"the connection ended: {error}") from error
            if not part:
                raise TuneError("the connection ended")
            parts += part
        return bytes(parts)

    def close(self) -> None:
        """End the connection."""
        self._link.close()
