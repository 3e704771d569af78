"""Find models of the zoo, and write them to folders."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgec.models.cards import card_text
from edgec.models.catalogue import ENTRIES, ZooEntry
from edgec.targets.errors import UsageError

if TYPE_CHECKING:
    from edgec.models.graph import Graph, Value


TRAINED_FOLDER = Path(__file__).resolve().parent / "trained"


class UnknownModel(UsageError):
    """The zoo has no model of this name."""


def list_models() -> list[ZooEntry]:
    """All models of the zoo, in a fixed order."""
    return list(ENTRIES)


def find_model(name: str) -> ZooEntry:
    """Find a model by name.

    Raises:
        UnknownModel: the zoo has no such model; the message suggests similar names.
    """
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    close = difflib.get_close_matches(name, [e.name for e in ENTRIES], 3, 0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else "see `edgec models list`"
    raise UnknownModel(f"no model {name!r} in the zoo: {hint}")


def describe(name: str) -> tuple[Graph, dict[str, Value]]:
    """Build the graph of `name` (which has its cost) and return it with its outputs by name.

    Raises:
        UnknownModel: the zoo has no such model.
    """
    from edgec.models.graph import Graph

    entry = find_model(name)
    module, _, function = entry.source.partition(":")
    make: Callable[[Graph], dict[str, Value]] = getattr(
        importlib.import_module(f"edgec.models.zoo.{module}"), function
    )
    graph = Graph(entry.name, _trained_weights(name) if entry.trained else None)
    return graph, make(graph)


def build(name: str, folder: Path | str) -> Path:
    """Write `model.onnx` (and the card, if there is one) of `name` into `folder`; return the path of the ONNX file.

    Equal names give equal bytes everywhere: random weights are seeded by tensor name. Requires the package `onnx` (the
    `compiler` extra).

    Raises:
        UnknownModel: the zoo has no such model.
    """
    from edgec.models.graph import save

    graph, outputs = describe(name)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    save(graph.finish(outputs, find_model(name).description), path)
    card = card_of(name)
    if card is not None:
        part = folder / "model.toml.part"
        part.write_text(card, encoding="utf-8")
        part.replace(folder / "model.toml")
    return path


def card_of(name: str) -> str | None:
    """The model card of `name` as TOML; None for a model on plain tensors.

    Raises:
        UnknownModel: the zoo has no such model.
    """
    entry = find_model(name)
    if entry.trained:
        return (TRAINED_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    return card_text(name, entry.task)


def _trained_weights(name: str) -> dict[str, NDArray[np.float32]]:
    """Weights by tensor name; the files store them as float16."""
    with np.load(TRAINED_FOLDER / f"{name}.npz") as file:
        return {key: file[key].astype(np.float32) for key in file.files}


def sample_inputs(name: str, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Inputs that `name` accepts, by input name: normalised pictures or features, or tokens with padding.

    Raises:
        UnknownModel: the zoo has no such model.
    """
    rng = np.random.default_rng(seed)
    graph, _ = describe(name)
    feeds: dict[str, NDArray[Any]] = {}
    for info in graph.inputs:
        shape = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        if info.name == "input_ids":
            feeds[info.name] = rng.integers(0, 30522, shape)
        elif info.name == "attention_mask":
            feeds[info.name] = (np.arange(shape[1])[None] < shape[1] * 3 // 4).astype(np.int64)
        elif info.name == "token_type_ids":
            feeds[info.name] = (np.arange(shape[1])[None] >= shape[1] // 2).astype(np.int64)
        else:
            feeds[info.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds
