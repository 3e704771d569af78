"""Operators of the schema that are not compiled, and why."""

from __future__ import annotations

_TEXTS = "it works on texts or hash tables, and compiled models compute on numbers"
_RANDOM = "it draws random numbers, so that no two runs agree and none can be verified"
_NO_KERNEL = "LiteRT has no kernel for it"
_STATE = "it keeps values between calls"

UNSUPPORTED: dict[str, str] = {}
