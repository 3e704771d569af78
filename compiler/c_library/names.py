"""Names of models, inputs and outputs as identifiers of C."""

from __future__ import annotations

import re
from collections.abc import Sequence

_KEYWORDS = frozenset(
    """alignas alignof asm auto bool break case catch char class const constexpr continue default delete do double else enum
    explicit export extern false float for friend goto if inline int long mutable namespace new noexcept nullptr operator
    private protected public register restrict return short signed sizeof static static_assert struct switch template this
    thread_local throw true try typedef typeid typename typeof union unsigned using virtual void volatile while main""".split()  # noqa: SIM905, E501
)


def identifier(name: str) -> str:
    """A model's name as the prefix of its functions: lower case, ASCII, no keyword of C or C++."""
    made = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "model"
    return f"m_{made}" if made[0].isdigit() or made in _KEYWORDS else made


def macro_parts(names: Sequence[str]) -> list[str]:
    """Names of ports as parts of macros, each once: a second one of a name, or one without letters, gets its number."""
    found: list[str] = []
    for number, name in enumerate(names):
        made = re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")
        found.append(made if made and made not in found else f"{made}_{number}".strip("_"))
    return found


def quoted(text: str) -> str:
    """A string literal of C; what is not printable ASCII is escaped, byte by byte."""
    pieces = [
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    ]
    return '"' + "".join(pieces) + '"'


def in_comment(text: str) -> str:
    """Text from a model inside a comment of C: one line that cannot end it."""
    return re.sub(r"[^\x20-\x7e]", "?", text).replace("*/", "* /").replace("/*", "/ *").replace("\\", "/")
