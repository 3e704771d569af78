"""The card itself: an input, an output decoder, and a description of the model."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from edgec.runtime.card.inputs import Input
from edgec.runtime.card.outputs import Output, Raw
from edgec.runtime.card.values import Name, Version
from edgec.runtime.schema import StrictPart, prepare


class StatePair(StrictPart, kw_only=True):
    """An input that the output `output` of the run before feeds; every element begins with `initial`."""

    input: str
    output: str
    initial: float = 0.0


class ModelCard(StrictPart, kw_only=True):
    """A model's description, input and output. `labels` are class names by index.

    `states` declares what a session carries from one run to the next. Without the key, the compiler finds states by
    their names and shapes; `states = []` says that there are none. `constants` sets inputs once and for all, such as a
    sample rate. An artifact's card lacks both: they are compiled in.

    In a card's file `labels` may also be the path of a text file beside it, with one label per line.
    """

    name: Name | None = None
    version: Version | None = None
    description: str = ""
    licence: str = ""
    input: Input
    output: Output = Raw()
    labels: tuple[str, ...] = ()
    states: tuple[StatePair, ...] | UnsetType = UNSET
    constants: dict[str, bool | int | float] | UnsetType = UNSET

    def label(self, class_id: int) -> str:
        """A class's label, or its index where the card has none."""
        return self.labels[class_id] if 0 <= class_id < len(self.labels) else str(class_id)


prepare(ModelCard)
