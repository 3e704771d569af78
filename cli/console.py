"""Where the command line writes: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def emit_json(value: Any) -> None:  # noqa: ANN401 - any JSON-serialisable value
    """Write ``value`` as one JSON document to standard output, without colours or wrapping."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
