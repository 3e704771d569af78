"""Output of the command line: results to standard output, everything else to standard error.

Names of nodes, tensors, files and devices come from others. They may look like rich's markup (`[bold]`, `[/head]`) or
hold codes for the terminal, so no text printed here is read as markup; styles are given through `styled`.
"""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any

from rich.console import Console
from rich.text import Text

# Codes that move the cursor, change colours or ring, and halves of characters that no encoding can write.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class PlainConsole(Console):
    """A console that prints every text as it is: without markup, emoji codes or control codes."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **how: Any) -> Text:  # noqa: ANN401 - the options of rich
        """Return `text` with its unprintable characters written as escapes."""
        return super().render_str(printable(text), **how)


def printable(text: str) -> str:
    """Return `text` with control characters and lone surrogates as escapes, such as `\\x1b`.

    A surrogate stands for a byte of a file name that is not UTF-8; standard output would refuse it.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return one line of texts, each alone or with its style: `styled(("equals", "green"), " ONNX Runtime")`."""
    return Text.assemble(
        *(printable(part) if isinstance(part, str) else (printable(part[0]), part[1]) for part in parts)
    )


out = PlainConsole()
err = PlainConsole(stderr=True)


def emit_json(value: Any) -> None:  # noqa: ANN401 - any JSON-serialisable value
    """Write `value` as one JSON document to standard output, without colours or wrapping."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def ago(at: float | None) -> str:
    """Return how long ago `at` (Unix seconds) was, in a few characters."""
    if at is None:
        return "never"
    passed = max(time.time() - at, 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= size:
            return f"{passed / size:.0f} {unit} ago"
    return f"{passed:.0f} s ago"
