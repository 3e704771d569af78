"""XGBoost's old binary format, which XGBoost itself no longer reads since version 3.1.

The layout (consecutive little-endian structures) is that of `LearnerModelParam`, `GBTreeModelParam`,
`TreeParam` and the arrays of nodes, as XGBoost 0.x to 3.0 wrote them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgec.compiler.kernels.forests.forest import ForestError

MAX_NAME = 256
MAX_TREES = 1_000_000
_NODE = np.dtype(
    [("parent", "<i4"), ("left", "<i4"), ("right", "<i4"), ("split", "<u4"), ("value", "<f4")]
)  # the highest bit of `split` says that missing values go left
_STATISTICS_BYTES = 16


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    def take(self, size: int) -> bytes:
        end = self.position + size
        if size < 0 or end > len(self.content):
            raise ForestError("it is cut short, or no XGBoost model")
        part = self.content[self.position : end]
        self.position = end
        return part

    def unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def name(self) -> str:
        (length,) = self.unpack("<Q")
        if length > MAX_NAME:
            raise ForestError("it is no XGBoost model")
        text = self.take(int(length))
        if not text.isascii():
            raise ForestError("it is no XGBoost model")
        return text.decode("ascii")


def read_binary(content: bytes) -> Mapping[str, Any]:
    """The model as a document of the JSON format's form.

    Raises:
        ForestError: damaged, or no such model.
    """
    reader = _Reader(content[4:] if content[:4] == b"binf" else content)
    base, features, classes, _, _, major, _ = reader.unpack("<fIiiiII")
    reader.take(136 - 28)
    objective, booster = reader.name(), reader.name()
    if booster not in ("gbtree", "dart"):
        raise ForestError(
            f"it is a {booster or 'nameless'} model, which has no trees; export it to ONNX instead"
        )
    (count,) = reader.unpack("<i")
    reader.take(160 - 4)
    if not 0 <= count <= MAX_TREES:
        raise ForestError(f"it declares {count} trees")
    trees = [_tree(reader) for _ in range(count)]
    info = np.frombuffer(reader.take(4 * count), "<i4").tolist()
    gradient_booster: dict[str, Any] = {"name": "gbtree", "model": {"trees": trees, "tree_info": info}}
    if booster == "dart":
        (length,) = reader.unpack("<Q")
        weights = np.frombuffer(reader.take(4 * int(length)), "<f4")
        gradient_booster = {"name": "dart", "gbtree": gradient_booster, "weight_drop": weights}
    return {
        "learner": {
            "learner_model_param": {
                "base_score": repr(float(base)),
                "num_class": classes,
                "num_feature": features,
            },
            "objective": {"name": objective},
            "gradient_booster": gradient_booster,
        },
        "edgec_margin": major < 1,  # before 1.0 the margin was stored, not the score
    }


def _tree(reader: _Reader) -> dict[str, Any]:
    _, nodes, _, _, _, leaf_vector = reader.unpack("<6i")
    reader.take(148 - 24)
    if leaf_vector > 1:
        raise ForestError("its trees have vectors in their leaves")
    if nodes < 1:
        raise ForestError(f"a tree declares {nodes} nodes")
    table = np.frombuffer(reader.take(nodes * _NODE.itemsize), _NODE)
    reader.take(nodes * _STATISTICS_BYTES)
    return {
        "tree_param": {},
        "left_children": table["left"],
        "right_children": table["right"],
        "split_indices": table["split"] & 0x7FFFFFFF,
        "default_left": table["split"] >> 31,
        "split_conditions": table["value"],
    }
