"""Load and run artifacts on a device: numpy, apache-tvm-ffi and libtvm_runtime.so, and no compiler."""

from edgec.runtime.artifact import Artifact, pack_from_layout, unpack_to_layout, write_artifact
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
from edgec.runtime.errors import ArtifactError, CardError, IncompatibleDevice, InputError
from edgec.runtime.loading import check_device, load
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
