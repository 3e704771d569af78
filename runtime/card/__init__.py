"""The model card (`model.toml`): the path from a camera's frame or a microphone's samples to typed results.

The card is declarative, so no user code runs on a device. Pixels are 0 to 255 and frames are as OpenCV returns them
(BGR, `[height, width, 3]`, uint8); the model's input is `(pixel - mean) * scale`.
"""

from edgec.runtime.card.inputs import AudioInput, ImageInput, Input, TensorInput
from edgec.runtime.card.model_card import ModelCard, StatePair
from edgec.runtime.card.outputs import (
    AnchorLayer,
    Anomaly,
    BoxOutput,
    Classification,
    Embedding,
    Heatmap,
    Keyword,
    Output,
    Raw,
    Segmentation,
    SoundEvents,
    Ssd,
    Text,
    Ultraface,
    Yolov5,
    Yolov8,
    Yolox,
    Yunet,
)
from edgec.runtime.card.values import Activation

__all__ = [
    "Activation",
    "AnchorLayer",
    "Anomaly",
    "AudioInput",
    "BoxOutput",
    "Classification",
    "Embedding",
    "Heatmap",
    "ImageInput",
    "Input",
    "Keyword",
    "ModelCard",
    "Output",
    "Raw",
    "Segmentation",
    "SoundEvents",
    "Ssd",
    "StatePair",
    "TensorInput",
    "Text",
    "Ultraface",
    "Yolov5",
    "Yolov8",
    "Yolox",
    "Yunet",
]
