"""Load and run artifacts on a device: numpy, msgspec, apache-tvm-ffi and libtvm_runtime.so, and no compiler.

A name is imported on first access, so a process that only loads and runs a model pays for nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgec.runtime.artifact.config import (
        ArtifactConfig,
        Bucket,
        KernelInfo,
        MemoryPlan,
        PlannedTensor,
        Provenance,
        Segment,
        StateSpec,
        TensorSpec,
    )
    from edgec.runtime.artifact.layout_folder import pack_from_layout, unpack_to_layout
    from edgec.runtime.artifact.reader import Artifact
    from edgec.runtime.artifact.writer import write_artifact
    from edgec.runtime.card import ModelCard
    from edgec.runtime.card.file import load_card
    from edgec.runtime.compatibility import check_device
    from edgec.runtime.errors import ArtifactError, CardError, IncompatibleDevice, InputError
    from edgec.runtime.execution.profiling import LayerTime
    from edgec.runtime.model import Model
    from edgec.runtime.overlapped_load import load
    from edgec.runtime.processing.drawing import draw
    from edgec.runtime.processing.nv12 import Nv12
    from edgec.runtime.processing.results import (
        Anomaly,
        Box,
        Classification,
        Detection,
        Embedding,
        Keypoints,
        Point,
        Raw,
        Result,
        Segmentation,
        Sound,
        Text,
    )
    from edgec.runtime.session import Session

_MODULES = {
    "artifact.layout_folder": ("pack_from_layout", "unpack_to_layout"),
    "artifact.reader": ("Artifact",),
    "artifact.writer": ("write_artifact",),
    "card": ("ModelCard",),
    "card.file": ("load_card",),
    "compatibility": ("check_device",),
    "artifact.config": (
        "ArtifactConfig", "Bucket", "KernelInfo", "MemoryPlan", "PlannedTensor", "Provenance", "Segment", "StateSpec",
        "TensorSpec",
    ),
    "processing.drawing": ("draw",),
    "errors": ("ArtifactError", "CardError", "IncompatibleDevice", "InputError"),
    "model": ("Model",),
    "execution.profiling": ("LayerTime",),
    "processing.results": (
        "Anomaly", "Box", "Classification", "Detection", "Embedding", "Keypoints", "Point", "Raw", "Result",
        "Segmentation", "Sound", "Text",
    ),
    "processing.nv12": ("Nv12",),
    "overlapped_load": ("load",),
    "session": ("Session",),
}  # fmt: skip
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """Import the module that defines `name`."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


__all__ = [
    "Anomaly",
    "Artifact",
    "ArtifactConfig",
    "ArtifactError",
    "Box",
    "Bucket",
    "CardError",
    "Classification",
    "Detection",
    "Embedding",
    "IncompatibleDevice",
    "InputError",
    "KernelInfo",
    "Keypoints",
    "LayerTime",
    "MemoryPlan",
    "Model",
    "ModelCard",
    "Nv12",
    "PlannedTensor",
    "Point",
    "Provenance",
    "Raw",
    "Result",
    "Segment",
    "Segmentation",
    "Session",
    "Sound",
    "StateSpec",
    "TensorSpec",
    "Text",
    "check_device",
    "draw",
    "load",
    "load_card",
    "pack_from_layout",
    "unpack_to_layout",
    "write_artifact",
]
