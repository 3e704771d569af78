"""What the zoo holds, and how a model is written to a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.targets.errors import EdgecError

if TYPE_CHECKING:
    from edgec.models.graph import Graph, Value

    Build = Callable[[Graph], dict[str, Value]]


class UnknownModel(EdgecError):
    """The zoo has no model of that name."""


@dataclass(frozen=True)
class ZooEntry:
    """One model of the zoo: ``params`` as papers count them, ``macs`` multiply-adds of one inference."""

    name: str
    task: str
    params: int
    macs: int
    description: str
    trained: bool
    source: str
    """``module:function`` under ``edgec.models.zoo``."""


def _random(name: str, task: str, params: int, macs: int, source: str, description: str) -> ZooEntry:
    return ZooEntry(name, task, params, macs, description, False, source)


_ENTRIES: tuple[ZooEntry, ...] = (
    _random("resnet18", "classification", 11_689_512, 1_814_073_344, "resnet:resnet18", "ResNet-18, 224×224"),
    _random("resnet50", "classification", 25_557_032, 4_089_184_256, "resnet:resnet50", "ResNet-50, 224×224"),
    _random(
        "mobilenetv1",
        "classification",
        4_231_976,
        568_740_352,
        "mobilenet:mobilenetv1",
        "MobileNetV1 1.0, 224×224",
    ),
    _random(
        "mobilenetv2",
        "classification",
        3_504_872,
        300_774_272,
        "mobilenet:mobilenetv2",
        "MobileNetV2 1.0, 224×224",
    ),
)


def list_models() -> list[ZooEntry]:
    """All models of the zoo, in a fixed order."""
    return list(_ENTRIES)


def find_model(name: str) -> ZooEntry:
    """The entry called ``name``.

    Raises:
        UnknownModel: there is none; the message names close ones.
    """
    for entry in _ENTRIES:
        if entry.name == name:
            return entry
    import difflib

    close = difflib.get_close_matches(name, [e.name for e in _ENTRIES], 3, 0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else "see `edgec models list`"
    raise UnknownModel(f"no model {name!r} in the zoo: {hint}")


def build(name: str, folder: Path | str) -> Path:
    """Write ``model.onnx`` (and the card and labels, where the model has them) of ``name`` into ``folder``.

    The same name gives the same bytes everywhere: random weights are seeded by tensor name. Returns the path
    of the ONNX file. Needs the package ``onnx`` (the ``compiler`` extra).

    Raises:
        UnknownModel: the zoo has no such model.
    """
    import importlib

    from edgec.models.graph import Graph, save

    entry = find_model(name)
    module, _, function = entry.source.partition(":")
    make: Build = getattr(importlib.import_module(f"edgec.models.zoo.{module}"), function)
    graph = Graph(entry.name)
    outputs = make(graph)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    save(graph.finish(outputs, entry.description), path)
    return path
