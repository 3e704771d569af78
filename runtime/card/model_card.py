"""The card itself: an input, an output decoder, and a description of the model."""

from __future__ import annotations

from edgec.runtime.card.inputs import Input
from edgec.runtime.card.outputs import Output, Raw
from edgec.runtime.card.values import Name, Version
from edgec.runtime.schema import StrictPart, prepare


class ModelCard(StrictPart, kw_only=True):
    """A model's description, input and output. `labels` are class names by index.

    In a card's file `labels` may also be the path of a text file beside it, with one label per line.
    """

    name: Name | None = None
    version: Version | None = None
    description: str = ""
    licence: str = ""
    input: Input
    output: Output = Raw()
    labels: tuple[str, ...] = ()

    def label(self, class_id: int) -> str:
        """A class's label, or its index where the card has none."""
        return self.labels[class_id] if 0 <= class_id < len(self.labels) else str(class_id)


prepare(ModelCard)
