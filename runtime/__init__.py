"""Load and run artifacts on a device: numpy, apache-tvm-ffi and libtvm_runtime.so, and no compiler."""

from edgec.runtime.artifact import Artifact, pack_from_layout, unpack_to_layout, write_artifact
from edgec.runtime.card import ModelCard, load_card
from edgec.runtime.config import ArtifactConfig, KernelInfo, Provenance, Segment, TensorSpec
from edgec.runtime.errors import ArtifactError, CardError, IncompatibleDevice, InputError
from edgec.runtime.loading import check_device, load
from edgec.runtime.model import Model
from edgec.runtime.profiling import LayerTime

__all__ = [
    "Artifact",
    "ArtifactConfig",
    "ArtifactError",
    "CardError",
    "IncompatibleDevice",
    "InputError",
    "KernelInfo",
    "LayerTime",
    "Model",
    "ModelCard",
    "Provenance",
    "Segment",
    "TensorSpec",
    "check_device",
    "load",
    "load_card",
    "pack_from_layout",
    "unpack_to_layout",
    "write_artifact",
]
