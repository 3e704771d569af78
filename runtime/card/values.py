"""The constrained values that fields of cards and configs take."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

Activation = Literal["none", "softmax", "sigmoid"]
Probability = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(gt=0)]
Positive = Annotated[float, Meta(gt=0)]
Side = Annotated[int, Meta(gt=0, le=16384)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Version = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
