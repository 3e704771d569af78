"""Trace kernels back to the nodes of the source model.

A front end names the binding variables of its Relax module `n<index>_…`, `index` being the position of the
ONNX node. Passes of this package keep those names; `node_of` reads them. A value of several merged nodes is
called `n<index>and<index>_…`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NODE = re.compile(r"^n(\d+(?:and\d+)*)_")


def node_of(name: str) -> int | None:
    """The index of the source node that a variable is named after; None for a variable made by a pass.

    Of several nodes the last one: the value is that node's result.
    """
    nodes = nodes_of(name)
    return nodes[-1] if nodes else None


def nodes_of(name: str) -> tuple[int, ...]:
    """The indices of all source nodes that a variable is named after."""
    match = _NODE.match(name)
    return tuple(int(node) for node in match.group(1).split("and")) if match else ()


def merged_name(names: Sequence[str]) -> str:
    """A name for the merged value of all `names`, derived from the last of them."""
    nodes = [node for name in names for node in nodes_of(name)]
    last = _NODE.sub("", names[-1])
    return f"n{'and'.join(str(node) for node in dict.fromkeys(nodes))}_{last}" if nodes else last
