"""Decoders other than detectors': classes, keypoints, masks, sounds, anomalies, vectors, text."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgec.runtime import card as cards
from edgec.runtime.card import ModelCard
from edgec.runtime.errors import InputError
from edgec.runtime.execution.compiled_functions import Array
from edgec.runtime.processing.activations import activate
from edgec.runtime.processing.boxes import BOX_DECODERS, named, single
from edgec.runtime.processing.image import Placement
from edgec.runtime.processing.results import (
    Anomaly,
    Classification,
    Embedding,
    Keypoints,
    Point,
    Raw,
    Result,
    Segmentation,
    Sound,
    Text,
)

Outputs = Mapping[str, Array]


def default_palette() -> npt.NDArray[np.uint8]:
    """256 colours (BGR) in which consecutive classes are easy to tell apart; class 0 is black."""
    colours = np.zeros((256, 3), np.uint8)
    for number in range(1, 256):
        hue = (number * 0.618033988749895) % 1.0  # the golden ratio spreads hues evenly for any count
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.65 + 0.35 * (number % 2), 1.0 - 0.25 * (number % 3) / 2)
        colours[number] = [round(255 * value) for value in (blue, green, red)]
    return colours


def classification(outputs: Outputs, spec: cards.Classification, card: ModelCard) -> list[Classification]:
    """The best classes at or above the threshold, best first."""
    scores = activate(single(outputs, spec.output).reshape(-1).astype(np.float32), spec.activation)
    order = np.argsort(-scores, kind="stable")[: spec.top_k]
    return [
        Classification(card.label(int(number)), int(number), float(scores[number]))
        for number in order
        if scores[number] >= spec.threshold
    ]


def heatmap(outputs: Outputs, spec: cards.Heatmap, card: ModelCard, place: Placement) -> list[Keypoints]:
    """The highest cell of each map, moved by its offset where the model has offsets, else to the cell's centre.

    With offsets, cells are at multiples of the output stride, `(input - 1) / (cells - 1)`, as in PoseNet
    (Papandreou et al., 2018), whose offsets are `[dy of all points, dx of all points]`.
    """
    if not isinstance(card.input, cards.ImageInput):
        raise InputError("decoder heatmap needs an image as input")
    maps = activate(single(outputs, spec.output)[0], spec.activation)
    maps = maps.transpose(2, 0, 1) if spec.layout == "NHWC" else maps
    count, rows, columns = maps.shape
    flat = maps.reshape(count, -1)
    best = flat.argmax(axis=1)
    scores = flat[np.arange(count), best]
    y, x = np.divmod(best, columns)
    size = np.array([card.input.width, card.input.height], np.float64)
    if spec.offsets is None:
        points = (np.stack([x, y], axis=1) + 0.5) * size / [columns, rows]
    else:
        offsets = named(outputs, spec.offsets)[0]
        offsets = offsets.transpose(2, 0, 1) if spec.layout == "NHWC" else offsets
        every = np.arange(count)
        shift = np.stack([offsets[every + count, y, x], offsets[every, y, x]], axis=1)
        stride = (size - 1) / [max(columns - 1, 1), max(rows - 1, 1)]
        points = np.stack([x, y], axis=1) * stride + shift
    in_frame = place.to_frame(points)
    names = [spec.names[n] if n < len(spec.names) else str(n) for n in range(count)]
    found = tuple(
        Point(float(px), float(py), float(score), name)
        for (px, py), score, name in zip(in_frame, scores, names, strict=True)
    )
    sure = [point.score for point in found if point.score >= spec.threshold]
    return [Keypoints(found, float(np.mean(sure)), spec.skeleton)] if sure else []


def segmentation(
    outputs: Outputs, spec: cards.Segmentation, card: ModelCard, place: Placement
) -> list[Segmentation]:
    """The class of every pixel of the frame."""
    if not isinstance(card.input, cards.ImageInput):
        raise InputError("decoder segmentation needs an image as input")
    maps = single(outputs, spec.output)[0]
    maps = maps.transpose(2, 0, 1) if spec.layout == "NHWC" and maps.ndim == 3 else maps
    if maps.ndim == 2:  # the graph returns class indices
        small = maps.astype(np.uint8)
    elif maps.shape[0] == 1:
        small = (activate(maps[0], spec.activation) >= spec.threshold).astype(np.uint8)
    else:
        small = maps.argmax(axis=0).astype(np.uint8)
    rows, columns = small.shape
    # Each pixel of the frame takes the class of the cell that contains its centre.
    width, height = place.frame_width, place.frame_height
    at_x = ((np.arange(width) + 0.5) * place.scale_x + place.offset_x) * columns / card.input.width
    at_y = ((np.arange(height) + 0.5) * place.scale_y + place.offset_y) * rows / card.input.height
    map_x = np.clip(at_x.astype(np.int64), 0, columns - 1)
    map_y = np.clip(at_y.astype(np.int64), 0, rows - 1)
    mask = np.ascontiguousarray(small[map_y[:, None], map_x[None, :]])
    counts = np.bincount(mask.reshape(-1), minlength=256)
    present = sorted(np.flatnonzero(counts).tolist(), key=lambda number: -counts[number])
    palette = default_palette()
    if spec.palette:  # colours are RGB in a card
        palette[: len(spec.palette)] = np.array(spec.palette, np.uint8)[:, ::-1]
    return [
        Segmentation(
            mask,
            {number: card.label(number) for number in present},
            {number: float(counts[number] / mask.size) for number in present},
            palette,
            spec.background,
        )
    ]


def keyword(
    outputs: Outputs, spec: cards.Keyword, card: ModelCard, window: tuple[float, float]
) -> list[Sound]:
    """The word spoken in the window; none below the threshold or among the ignored ones."""
    scores = activate(single(outputs, spec.output).reshape(-1).astype(np.float32), spec.activation)
    best = int(scores.argmax())
    label = card.label(best)
    if scores[best] < spec.threshold or label in spec.ignore:
        return []
    return [Sound(label, best, float(scores[best]), *window)]


def sound_events(
    outputs: Outputs, spec: cards.SoundEvents, card: ModelCard, window: tuple[float, float]
) -> list[Sound]:
    """The sounds heard in the window, best first."""
    scores = activate(single(outputs, spec.output).reshape(-1).astype(np.float32), spec.activation)
    order = np.argsort(-scores, kind="stable")[: spec.top_k]
    return [
        Sound(card.label(int(number)), int(number), float(scores[number]), *window)
        for number in order
        if scores[number] >= spec.threshold
    ]


def anomaly(
    outputs: Outputs, spec: cards.Anomaly, given: Array, window: tuple[float, float] | None
) -> list[Anomaly]:
    """The output's value (their mean where there are several), or the mean squared error of reconstructing `given`."""
    output = single(outputs, spec.output)
    if spec.score == "value":
        score = float(output.astype(np.float64).mean())
    else:
        difference = output.astype(np.float64).reshape(-1) - given.astype(np.float64).reshape(-1)
        score = float(np.mean(difference * difference))
    start, end = window or (None, None)
    return [Anomaly(score, score >= spec.threshold, start, end)]


def embedding(outputs: Outputs, spec: cards.Embedding) -> list[Embedding]:
    """The output as a vector, scaled to length 1 if the card says so."""
    vector = single(outputs, spec.output).reshape(-1).astype(np.float32)
    if spec.normalise:
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return [Embedding(vector)]


def text(outputs: Outputs, spec: cards.Text, card: ModelCard) -> list[Text]:
    """Greedy decoding of connectionist temporal classification (Graves et al., 2006).

    Raises:
        InputError: the output is not a matrix of steps and classes.
    """
    output = single(outputs, spec.output)
    steps = output
    while steps.ndim > 2 and 1 in steps.shape:
        steps = steps.squeeze(steps.shape.index(1))
    if steps.ndim != 2:
        raise InputError(f"decoder ctc needs steps × classes, not an output of shape {list(output.shape)}")
    scores = steps.T if spec.layout == "CT" else steps
    scores = activate(scores.astype(np.float32), spec.activation)
    best = scores.argmax(axis=1)
    kept = (best != spec.blank) & np.diff(best, prepend=-1).astype(bool)
    classes = best[kept] - (best[kept] > spec.blank)
    written = "".join(card.labels[c] if c < len(card.labels) else spec.space for c in classes.tolist())
    score = float(scores.max(axis=1)[kept].mean()) if kept.any() else 0.0
    return [Text(written, score)] if score >= spec.threshold else []


def decode(
    outputs: Outputs,
    card: ModelCard,
    *,
    given: Array,
    place: Placement | None = None,
    window: tuple[float, float] | None = None,
) -> list[Result]:
    """Decode a model's outputs to typed results, as the card's `[output]` declares.

    Args:
        outputs: by the source model's names.
        card: the model card.
        given: the model's input, with which a reconstruction is compared.
        place: the frame's placement in the input, for images.
        window: start and end in seconds, for sound.

    Raises:
        InputError: the card and the model do not fit.
    """
    spec = card.output
    if isinstance(spec, cards.Raw):
        return [Raw(dict(outputs))]
    if isinstance(spec, cards.Classification):
        return list(classification(outputs, spec, card))
    if isinstance(spec, cards.Anomaly):
        return list(anomaly(outputs, spec, given, window))
    if isinstance(spec, cards.Embedding):
        return list(embedding(outputs, spec))
    if isinstance(spec, cards.Text):
        return list(text(outputs, spec, card))
    if isinstance(spec, cards.Keyword | cards.SoundEvents):
        seconds = window or (0.0, 0.0)
        if isinstance(spec, cards.Keyword):
            return list(keyword(outputs, spec, card, seconds))
        return list(sound_events(outputs, spec, card, seconds))
    if place is None:
        raise InputError(f"decoder {spec.decoder} needs an image as input, not {card.input.kind}")
    if isinstance(spec, cards.Heatmap):
        return list(heatmap(outputs, spec, card, place))
    if isinstance(spec, cards.Segmentation):
        return list(segmentation(outputs, spec, card, place))
    return list(BOX_DECODERS[spec.decoder](outputs, spec, card, place))
