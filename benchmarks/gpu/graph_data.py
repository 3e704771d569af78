"""A network as plain data, from which a GPU's machine makes PyTorch's side of the comparison without `onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[Any]]


class Operation(msgspec.Struct, frozen=True):
    """A node: the ONNX operator, names of its values (empty where one is left out), and its attributes."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Network(msgspec.Struct, frozen=True):
    """A graph; its constants lie in an `.npz` file under their names."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]


def read(file: Path, constants: Path) -> tuple[Network, Arrays]:
    """What `describe` wrote."""
    with np.load(constants, allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    return msgspec.json.decode(file.read_bytes(), type=Network), arrays
