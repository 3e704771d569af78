"""Build the library of pre- and postprocessing, which the artifact holds beside the model's code.

It is a library of its own so that `run` has the source model's inputs and outputs, by which the artifact is verified.
For processors OpenCV resizes frames beforehand; the rest of preprocessing (for GPUs with the resizing), a detector's
postprocessing down to suppressed boxes, and the features of each new frame of sound are compiled here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx import PrimFunc

import edgec.runtime as rt
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.processing.boxes import SUPPORTED, DetectKernel
from edgec.compiler.processing.parallel import frame_map, planar_frame_map
from edgec.compiler.processing.parallel_decoders import PARALLEL_ONLY, decoder_shapes, parallel_kernel
from edgec.compiler.processing.pixels import prepare_kernel
from edgec.compiler.processing.sound import FeatureKernel
from edgec.runtime.card import AudioInput, BoxOutput, ImageInput
from edgec.runtime.processing.audio import fft_size
from edgec.runtime.processing.boxes import constants_of
from edgec.runtime.processing.compiled import DETECT, FEATURES, FRAME, FRAME_NV12, PREPARE, detect_outputs
from edgec.targets import Target


@dataclass(frozen=True)
class ProcessingLibrary:
    """The linked library, and the names of its functions."""

    code: bytes
    functions: tuple[str, ...]


def build_processing(
    card: rt.ModelCard | None,
    inputs: Sequence[rt.TensorSpec],
    outputs: Sequence[rt.TensorSpec],
    target: Target,
) -> ProcessingLibrary | None:
    """Compile the pre- and postprocessing that a card declares; None if there is nothing to compile."""
    functions: dict[str, PrimFunc] = {}
    if card is not None and isinstance(card.input, AudioInput):
        if (
            card.input.features != "waveform"
            and _frame_fits(card.input)
            and not backend_of(target).in_parallel
        ):
            functions[FEATURES] = FeatureKernel(card.input).build()
        return _compiled(functions, target)
    if card is None or not isinstance(card.input, ImageInput):
        return None
    parallel = backend_of(target).in_parallel
    if len(inputs) == 1 and inputs[0].dtype == "float32" and inputs[0].shape == _input_shape(card.input):
        if parallel:
            functions[FRAME] = frame_map(card.input, inputs[0].dtype)
            functions[FRAME_NV12] = planar_frame_map(card.input, inputs[0].dtype)
        else:
            functions[PREPARE] = prepare_kernel(card.input, inputs[0].dtype)
    if isinstance(card.output, BoxOutput):
        kernel = _detector(card, card.output, card.input, outputs, parallel=parallel)
        if kernel is not None:
            functions[DETECT] = kernel.build()
    return _compiled(functions, target)


def _compiled(functions: dict[str, PrimFunc], target: Target) -> ProcessingLibrary | None:
    code = backend_of(target).build_functions(functions) if functions else None
    return None if code is None else ProcessingLibrary(code, tuple(functions))


def _frame_fits(card: AudioInput) -> bool:
    """Whether a frame is no longer than its transform, which would cut it."""
    return round(card.frame_s * card.sample_rate) <= fft_size(card)


def _input_shape(card: ImageInput) -> tuple[int, ...]:
    sizes = (card.height, card.width)
    return (1, card.channels, *sizes) if card.layout == "NCHW" else (1, *sizes, card.channels)


def _detector(
    card: rt.ModelCard,
    spec: BoxOutput,
    picture: ImageInput,
    outputs: Sequence[rt.TensorSpec],
    *,
    parallel: bool,
) -> DetectKernel | None:
    """What writes the card's decoder; None for one that numpy runs, and for outputs that are not of its form."""
    by_name = {output.name: output for output in outputs}
    names = detect_outputs(spec, list(by_name))
    found = [by_name[name] for name in names if name in by_name]
    if len(found) < len(names) or any(one.dtype != "float32" or one.shape[:1] != (1,) for one in found):
        return None
    given = [one.shape for one in found]
    if isinstance(spec, PARALLEL_ONLY):
        shapes = decoder_shapes(spec, given) if parallel else None
    else:
        shapes = given if isinstance(spec, SUPPORTED) and all(len(one) == 3 for one in given) else None
    if shapes is None:
        return None
    kernel = parallel_kernel(spec, picture, shapes) if parallel else DetectKernel(spec, picture, shapes)
    constants = constants_of(card)
    return kernel if constants is None or len(constants) == kernel.anchors else None
