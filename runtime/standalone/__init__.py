"""Run artifacts with libedgec alone: neither numpy nor TVM.

The source of the package `edgec_runtime`, which `edgec runtime wheel --standalone` builds together with the library. It
imports nothing of edgec, so that it can stand alone; what is named as in `edgec.runtime` behaves as there, with any
buffers in place of numpy's arrays.
"""

from .arrays import Array
from .errors import ArtifactError, EdgecError, IncompatibleDevice, InputError
from .model import LayerTime, Model, Session, load
from .program import TensorSpec

__all__ = [
    "Array",
    "ArtifactError",
    "EdgecError",
    "IncompatibleDevice",
    "InputError",
    "LayerTime",
    "Model",
    "Session",
    "TensorSpec",
    "load",
]
