"""Pre- and postprocessing, compiled: pixels to the model's input, and the model's outputs to boxes."""

from edgec.compiler.processing.build import ProcessingLibrary, build_processing

__all__ = ["ProcessingLibrary", "build_processing"]
