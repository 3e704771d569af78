"""Load and run artifacts on a device: numpy, msgspec, apache-tvm-ffi and libtvm_runtime.so, and no compiler.

A name is imported when it is first asked for: a process that only loads and runs a model pays for nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgec.runtime.artifact import Artifact, pack_from_layout, unpack_to_layout, write_artifact
    from edgec.runtime.artifact_loader import check_device
    from edgec.runtime.card import ModelCard, load_card
    from edgec.runtime.config import (
        ArtifactConfig,
        Bucket,
        KernelInfo,
        MemoryPlan,
        PlannedTensor,
        Provenance,
        Segment,
        TensorSpec,
    )
    from edgec.runtime.drawing import draw
    from edgec.runtime.early_load import load
    from edgec.runtime.errors import ArtifactError, CardError, IncompatibleDevice, InputError
    from edgec.runtime.model import Model
    from edgec.runtime.profiling import LayerTime
    from edgec.runtime.results import (
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

_MODULES = {
    "artifact": ("Artifact", "pack_from_layout", "unpack_to_layout", "write_artifact"),
    "card": ("ModelCard", "load_card"),
    "config": (
        "ArtifactConfig", "Bucket", "KernelInfo", "MemoryPlan", "PlannedTensor", "Provenance", "Segment", "TensorSpec",
    ),
    "drawing": ("draw",),
    "errors": ("ArtifactError", "CardError", "IncompatibleDevice", "InputError"),
    "artifact_loader": ("check_device",),
    "model": ("Model",),
    "profiling": ("LayerTime",),
    "results": (
        "Anomaly", "Box", "Classification", "Detection", "Embedding", "Keypoints", "Point", "Raw", "Result",
        "Segmentation", "Sound", "Text",
    ),
    "early_load": ("load",),
}  # fmt: skip
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    """Import what is asked for."""
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
    "PlannedTensor",
    "Point",
    "Provenance",
    "Raw",
    "Result",
    "Segment",
    "Segmentation",
    "Sound",
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
