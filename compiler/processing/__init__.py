"""The path around the model, compiled: pixels to the model's input, and the model's outputs to boxes."""

from edgec.compiler.processing.build import Around, build_around

__all__ = ["Around", "build_around"]
