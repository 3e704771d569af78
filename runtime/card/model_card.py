"""The card itself: one input, one output decoder, and what describes the model."""

from __future__ import annotations

from edgec.runtime.card.inputs import Input
from edgec.runtime.card.outputs import Output, Raw
from edgec.runtime.card.values import Name, Version
from edgec.runtime.schema import StrictPart, prepare


class ModelCard(StrictPart, kw_only=True):
    """What a model is, what it takes and what it gives. `labels` are class names by index.

    In a card's file `labels` may also be the path of a text file beside it, one label a line.
    """

    name: Name | None = None
    version: Version | None = None
    description: str = ""
    licence: str = ""
    input: Input
    output: Output = Raw()
    labels: tuple[str, ...] = ()

    def label(self, class_id: int) -> str:
        """The name of a class, or its number where the card has no name for it."""
        return self.labels[class_id] if 0 <= class_id < len(self.labels) else str(class_id)


prepare(ModelCard)
