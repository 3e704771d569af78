"""Input kinds of a model card: how a frame or a sound becomes the model's input."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from edgec.runtime.card.values import Count, Positive, Side
from edgec.runtime.schema import StrictPart


class _Input(StrictPart, kw_only=True, tag_field="kind"):
    @property
    def kind(self) -> str:
        """The kind's name in a card."""
        return str(self.__struct_config__.tag)


class ImageInput(_Input, kw_only=True, tag="image"):
    """An image: how a frame becomes the model's input.

    `letterbox` keeps the aspect ratio and fills the rest with `pad`; `crop` keeps it and crops the longer side at the
    centre; `stretch` does not keep it. `anchor` is the position of a letterboxed picture.
    """

    name: str | None = None
    width: Side
    height: Side
    colour: Literal["rgb", "bgr", "gray"] = "rgb"
    resize: Literal["stretch", "letterbox", "crop"] = "stretch"
    interpolation: Literal["linear", "nearest", "area", "cubic"] = "linear"
    pad: float = 0.0
    anchor: Literal["top-left", "centre"] = "centre"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    mean: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0

    @property
    def channels(self) -> int:
        """1 for gray, 3 otherwise."""
        return 1 if self.colour == "gray" else 3

    def __post_init__(self) -> None:
        for key in ("mean", "scale"):
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != self.channels:
                raise ValueError(
                    f"{key} needs one number or {self.channels}, one a channel, not {len(value)}"
                )


class AudioInput(_Input, kw_only=True, tag="audio"):
    """Sound: mono samples at `sample_rate`, in windows of `window_s` every `hop_s` seconds.

    `features` is the model's input: the `waveform` itself, `log-mel` (frames × mels) or `mfcc` (frames × coefficients)
    of frames of `frame_s` every `step_s`. `axes` is their order in the model's input: `TF` (time, frequency) or `FT`;
    other axes have length 1.
    """

    name: str | None = None
    sample_rate: Count = 16000
    window_s: Annotated[float, Meta(gt=0, le=600)] = 1.0
    hop_s: Positive | None = None
    features: Literal["waveform", "log-mel", "mfcc"] = "waveform"
    frame_s: Positive = 0.025
    step_s: Positive = 0.010
    fft_size: Count | None = None
    mels: Count = 40
    coefficients: Count = 10
    min_hz: Annotated[float, Meta(ge=0)] = 20.0
    max_hz: Positive | None = None
    mel_scale: Literal["htk", "slaney"] = "htk"
    power: Literal[1, 2] = 2
    window: Literal["hann", "hamming", "none"] = "hann"
    log_offset: Positive = 1e-6
    axes: Literal["TF", "FT"] = "TF"
    mean: float = 0.0
    scale: float = 1.0

    @property
    def window_samples(self) -> int:
        """Samples in one window."""
        return round(self.window_s * self.sample_rate)


class TensorInput(_Input, kw_only=True, tag="tensor"):
    """Plain tensors: `predict` takes the same dict of arrays as `run`."""

    name: str | None = None


Input = ImageInput | AudioInput | TensorInput
