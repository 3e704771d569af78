"""Masks passwords and tokens in text for people: whole, or not at all."""

from __future__ import annotations

import re

_URL = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)(?P<rest>[^\s\"'<>]*)")
_PORT = re.compile(r"\d{1,5}/")
_KEYS = r"password|passwd|token|secret|authorization|api[_-]?key"
_QUOTED = re.compile(rf"(?i)\b({_KEYS})([\"']?\s*[=:]\s*)(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')")
_PLAIN = re.compile(rf"(?i)\b({_KEYS})(\"?\s*[=:]\s*)(?:(?:bearer|basic)\s+)?(?![\"'*])[^\s\"',}}&]+")


def mask(text: str) -> str:
    """Return `text` with passwords in addresses and values of secret-looking keys replaced by `***`.

    A password may contain `@`, `:` and `/` although an address should have them encoded: everything between the first
    colon of the credentials and the last `@` is masked, and rather too much than a part.
    """
    text = _URL.sub(_address, text)
    text = _QUOTED.sub(lambda found: f"{found[1]}{found[2]}{found[3][0]}***{found[3][0]}", text)
    return _PLAIN.sub(r"\1\2***", text)


def _address(found: re.Match[str]) -> str:
    scheme, rest = found["scheme"], found["rest"]
    credentials, at, place = rest.rpartition("@")
    user, colon, password = credentials.partition(":")
    if not at or not colon or any(one in user for one in "/?#") or _PORT.match(password):
        return f"{scheme}{rest}"  # A path or a port before the sign: there are no credentials.
    return f"{scheme}{user}:***@{place}"
