"""Output decoders of a model card: how the model's numbers become typed results."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from edgec.runtime.card.values import Activation, Count, Probability
from edgec.runtime.schema import StrictPart


class _Output(StrictPart, kw_only=True, tag_field="decoder"):
    @property
    def decoder(self) -> str:
        """The decoder's name in a card."""
        return str(self.__struct_config__.tag)


class Classification(_Output, kw_only=True, tag="classification"):
    """One score per class: the `top_k` best at or above `threshold`."""

    output: str | None = None
    activation: Activation = "softmax"
    top_k: Count = 5
    threshold: Probability = 0.0


class BoxOutput(_Output, kw_only=True):
    """Common settings of detectors: thresholds of scores and of overlap (non-maximum suppression)."""

    score_threshold: Probability = 0.3
    nms_threshold: Probability = 0.45
    class_wise: bool = True
    max_detections: Count = 100


class Yolox(BoxOutput, kw_only=True, tag="yolox"):
    """YOLOX: `[1, anchors, 5 + classes]`, boxes relative to their grid cells (unless `decoded` by the graph)."""

    output: str | None = None
    strides: tuple[int, ...] = (8, 16, 32)
    decoded: bool = False


class Yolov5(BoxOutput, kw_only=True, tag="yolov5"):
    """YOLOv5 and v7: `[1, anchors, 5 + classes]` decoded to input pixels (or 0 to 1: `normalised`)."""

    output: str | None = None
    normalised: bool = False


class Yolov8(BoxOutput, kw_only=True, tag="yolov8"):
    """YOLOv8 to v11: `[1, 4 + classes, anchors]` without objectness, centre and size in input pixels."""

    output: str | None = None
    normalised: bool = False


class AnchorLayer(StrictPart, kw_only=True):
    """One SSD feature map of `rows` × `columns` cells; box sizes (width, height) are fractions of the picture."""

    rows: Count
    columns: Count
    sizes: Annotated[tuple[tuple[float, float], ...], Meta(min_length=1)]


class Ssd(BoxOutput, kw_only=True, tag="ssd"):
    """SSD: class scores `[1, anchors, classes]` and box codes `[1, anchors, 4]` relative to the anchors.

    Codes are (dx, dy, dw, dh), or (dy, dx, dh, dw) with `order = "yx"`. Class `background` is dropped and the classes
    after it move down by one, so that labels start with the first real class; None where the model has no such class.
    With `coding = "corner"` the boxes are x0, y0, x1, y1 from 0 to 1 and need no anchors.
    """

    scores: str
    boxes: str
    activation: Activation = "softmax"
    background: int | None = 0
    coding: Literal["centre", "corner"] = "centre"
    order: Literal["xy", "yx"] = "xy"
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    anchors: tuple[AnchorLayer, ...] = ()

    def __post_init__(self) -> None:
        if self.coding == "centre" and not self.anchors:
            raise ValueError(
                'anchors are needed to decode boxes (or coding = "corner" if the graph decodes them)'
            )


class Ultraface(BoxOutput, kw_only=True, tag="ultraface"):
    """UltraFace: `scores [1, n, 2]` (background, face) and `boxes [1, n, 4]` as corners from 0 to 1."""

    scores: str = "scores"
    boxes: str = "boxes"
    score_threshold: Probability = 0.7
    nms_threshold: Probability = 0.3


class Yunet(BoxOutput, kw_only=True, tag="yunet"):
    """YuNet: per stride `cls_S`, `obj_S`, `bbox_S` and `kps_S`; the faces carry five landmarks."""

    strides: tuple[int, ...] = (8, 16, 32)
    score_threshold: Probability = 0.6
    nms_threshold: Probability = 0.3


class Heatmap(_Output, kw_only=True, tag="heatmap"):
    """One heat map per keypoint: the point is its highest cell, refined by `offsets` (dy, dx in input pixels).

    `names` are the points' names, `skeleton` the pairs of indices to draw lines between.
    """

    output: str | None = None
    offsets: str | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    activation: Activation = "none"
    threshold: Probability = 0.3
    names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()


class Segmentation(_Output, kw_only=True, tag="segmentation"):
    """A class per pixel: the largest channel, or with a single channel, whether it reaches `threshold`."""

    output: str | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    activation: Activation = "none"
    threshold: Probability = 0.5
    background: int | None = 0
    palette: tuple[tuple[int, int, int], ...] = ()


class Keyword(_Output, kw_only=True, tag="keyword"):
    """A spoken word in a window of sound; classes named in `ignore` (silence, unknown) are never reported."""

    output: str | None = None
    activation: Activation = "softmax"
    threshold: Probability = 0.6
    ignore: tuple[str, ...] = ()


class SoundEvents(_Output, kw_only=True, tag="sound-events"):
    """Any number of sounds in a window: each class at or above `threshold`, at most `top_k`."""

    output: str | None = None
    activation: Activation = "sigmoid"
    threshold: Probability = 0.3
    top_k: Count = 5


class Anomaly(_Output, kw_only=True, tag="anomaly"):
    """An anomaly score: the output's own `value`, or the mean squared error of a `reconstruction`."""

    output: str | None = None
    score: Literal["value", "reconstruction"] = "value"
    threshold: float = 0.5


class Embedding(_Output, kw_only=True, tag="embedding"):
    """A vector that represents the input; `normalise` scales it to length 1."""

    output: str | None = None
    normalise: bool = True


class Text(_Output, kw_only=True, tag="ctc"):
    """Greedy connectionist temporal classification: the likeliest class of each step, without repeats and blanks.

    The labels are the characters of the classes other than `blank`, in order. `layout` is the order of the output's
    axes: steps × classes (`TC`; a batch axis of 1 may be anywhere) or classes × steps (`CT`). A class beyond the labels
    decodes to `space`, which recognisers append to their dictionary.
    """

    output: str | None = None
    activation: Activation = "none"
    layout: Literal["TC", "CT"] = "TC"
    blank: Annotated[int, Meta(ge=0)] = 0
    space: str = " "
    threshold: Probability = 0.0


class Raw(_Output, kw_only=True, tag="raw"):
    """The model's outputs, unprocessed."""


Output = (
    Classification
    | Yolox
    | Yolov5
    | Yolov8
    | Ssd
    | Ultraface
    | Yunet
    | Heatmap
    | Segmentation
    | Keyword
    | SoundEvents
    | Anomaly
    | Embedding
    | Text
    | Raw
)
