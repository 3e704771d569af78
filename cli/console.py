"""Output of the command line: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


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
