"""The thread that leads from a kernel back to the nodes of the source model.

A front end names the binding variables of its Relax module ``n<index>_…``, `index` being the position of the
ONNX node. Passes of this package keep those names; `node_of` reads them.
"""

from __future__ import annotations

import re

_NODE = re.compile(r"^n(\d+)_")


def node_of(name: str) -> int | None:
    """The index of the source node that a variable is named after; None for a variable made by a pass."""
    match = _NODE.match(name)
    return int(match.group(1)) if match else None


def name_after(name: str, suffix: str) -> str:
    """A name for a value derived from `name`, which keeps the source node's index."""
    match = _NODE.match(name)
    return f"{match.group(0)}{suffix}" if match else suffix
