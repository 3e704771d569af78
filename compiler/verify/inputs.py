"""Inputs for verification: the user's, or plausible ones generated from the model's declarations."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, numpy_helper

from edgec.compiler.errors import InputShapeError
from edgec.compiler.frontends.source import Port, SourceModel
from edgec.compiler.verify.demands import Demand
from edgec.compiler.verify.requirements import demands_of

Arrays = dict[str, npt.NDArray[np.generic]]

MOVING = {"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"}
SAMPLE_RATES = {"sr", "sample_rate", "sampling_rate"}


def read_inputs(path: Path, source: SourceModel) -> Arrays:
    """Read inputs from an `.npz` file whose entries are named like the model's inputs.

    Those of a model with states may be inputs of several runs one after the other: their first axis is the run.

    Raises:
        InputShapeError: unreadable, a missing or unknown name, another shape or element type.
    """
    given = _arrays(path)
    return _checked_runs(given, source) if source.states else checked_inputs(given, source)


def _checked_runs(given: Arrays, source: SourceModel) -> Arrays:
    """The inputs of one run or of several, without the states, which begin with their initial values."""
    states = {state.input for state in source.states}
    shown = replace(source, inputs=tuple(port for port in source.inputs if port.name not in states))
    given = {name: array for name, array in given.items() if name not in states}
    ranks = {port.name: len(port.shape) for port in shown.inputs}
    several = {n for n, array in given.items() if n in ranks and array.ndim == ranks[n] + 1}
    counts = {len(given[name]) for name in several}
    if not several:
        return checked_inputs(given, shown)
    if len(counts) > 1 or 0 in counts:
        raise InputShapeError(
            f"the inputs are of {' and '.join(map(str, sorted(counts)))} runs; give all of as many"
        )
    runs = [
        checked_inputs({n: a[run] if n in several else a for n, a in given.items()}, shown)
        for run in range(counts.pop())
    ]
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def _arrays(path: Path) -> Arrays:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array, without a name")
        with file:
            return {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputShapeError(f"{path}: cannot be read as an .npz file of arrays: {error}") from error


def fits(path: Path, source: SourceModel) -> bool:
    """Whether the arrays of an `.npz` file have the shapes of the model's inputs.

    Raises:
        InputShapeError: it cannot be read.
    """
    given, ports = _arrays(path), {port.name: port.shape for port in source.inputs}
    return {name: array.shape for name, array in given.items()} == ports


def checked_inputs(given: Mapping[str, npt.NDArray[np.generic]], source: SourceModel) -> Arrays:
    """The given inputs in the model's element types.

    Raises:
        InputShapeError: a missing or unknown name, or another shape.
    """
    ports = {port.name: port for port in source.inputs}
    for name in given.keys() ^ ports.keys():
        what = "has no input" if name in given else "also needs the input"
        raise InputShapeError(f"the model {what} {name!r}; its inputs are {', '.join(ports)}")
    for name, port in ports.items():
        if given[name].shape != port.shape:
            raise InputShapeError(
                f"the input {name!r} must have the shape {list(port.shape)}, not {list(given[name].shape)}"
            )
    return {name: given[name].astype(port.dtype, copy=False) for name, port in ports.items()}


def make_inputs(source: SourceModel, seed: int = 0) -> Arrays:
    """Make plausible inputs that the model's operators accept.

    Smooth pictures with noise, noise elsewhere; indices within their tables, lengths within their sequences, divisors
    that are not zero: see `edgec.compiler.verify.demands`.
    """
    rng = np.random.default_rng(seed)
    demands, in_bytes = demands_of(source.model), _pictures_in_bytes(source.model)
    made = {port.name: _make(port, rng, demands.get(port.name, Demand())) for port in source.inputs}
    for name in in_bytes & made.keys():
        if np.issubdtype(made[name].dtype, np.floating) and _looks_like_picture(made[name].shape):
            made[name] = (made[name] * 255).astype(made[name].dtype)
    for name, (low, high) in _ranges_of_grids(source.model).items():
        demand = demands.get(name, Demand())
        if name in made and np.issubdtype(made[name].dtype, np.floating) and demand == Demand():
            made[name] = _spread(made[name], low, high)
    return made


def generated(source: SourceModel) -> Iterator[tuple[str, Arrays]]:
    """Yield generated inputs of several ranges with their descriptions, the usual ones first.

    Logarithms and roots of negative numbers are NaN, and arccosines of numbers above 1; sigmoids of large numbers are
    all 1, and rectified negative ones all 0.
    """
    usual = make_inputs(source)
    yield "generated inputs (seed 0)", usual
    if any(np.issubdtype(array.dtype, np.floating) for array in usual.values()):
        yield "generated inputs (seed 0, above 1)", _in_range(usual, lambda x: 1 + 4 * np.abs(x))
        yield (
            "generated inputs (seed 0, from 0 to 1)",
            _in_range(usual, lambda x: np.abs(x) / (1 + np.abs(x))),
        )
        yield "generated inputs (seed 0, small)", _in_range(usual, lambda x: x / 64)
        yield "generated inputs (seed 0, large)", _in_range(usual, lambda x: x * 64)
    for seed in (1, 2):
        yield f"generated inputs (seed {seed})", make_inputs(source, seed)


def simplest(source: SourceModel) -> Iterator[tuple[str, Arrays]]:
    """Yield inputs whose integers are all 1, or all 0, for a model whose uses of them are not understood."""
    usual = make_inputs(source)
    for number in (1, 0):
        yield (
            f"generated inputs (seed 0, integers {number})",
            {
                name: np.full_like(array, number) if array.dtype.kind in "iu" else array
                for name, array in usual.items()
            },
        )


def _in_range(inputs: Arrays, moved: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Arrays:
    return {
        name: np.asarray(moved(array), array.dtype) if np.issubdtype(array.dtype, np.floating) else array
        for name, array in inputs.items()
    }


def _make(port: Port, rng: np.random.Generator, demand: Demand) -> npt.NDArray[np.generic]:
    dtype = np.dtype(port.dtype)
    if demand.make is not None:
        made = np.asarray(demand.make(rng))
        if made.size == math.prod(port.shape):
            return made.reshape(port.shape).astype(dtype)
    if dtype == np.bool_:
        return np.asarray(rng.random(port.shape) < 0.5)  # of a scalar: ONNX Runtime takes no numpy.bool
    if dtype.kind in "iu":
        return _integers(port, dtype, rng, demand)
    if _looks_like_picture(port.shape):
        return _picture(port.shape, rng).astype(dtype)
    return _reals(port, rng, demand).astype(dtype)


def _integers(
    port: Port, dtype: np.dtype[Any], rng: np.random.Generator, demand: Demand
) -> npt.NDArray[np.generic]:
    free = demand.low is None and demand.high is None
    if free and port.name.lower() in SAMPLE_RATES:
        return np.full(port.shape, 16000, dtype)
    if free and "mask" in port.name.lower():
        return np.ones(port.shape, dtype)
    limits = np.iinfo(dtype)
    low = -128 if dtype == np.int8 and free else 0 if demand.low is None else math.ceil(demand.low)
    usual = 255 if dtype == np.uint8 else 127 if dtype == np.int8 else max(9, low + 9)
    high = usual if demand.high is None else math.floor(demand.high)
    low = min(low, high) if demand.low is None else low
    low, high = max(low, int(limits.min)), min(max(low, high), int(limits.max))
    made = rng.integers(low, high, port.shape, endpoint=True, dtype=np.int64)
    if demand.nonzero:
        made = np.where(made == 0, 1 if high >= 1 else -1, made)
    return np.asarray(made, dtype)


def _reals(port: Port, rng: np.random.Generator, demand: Demand) -> npt.NDArray[Any]:
    noise = rng.standard_normal(port.shape)
    if demand.low is None and demand.high is None:
        return noise
    if demand.low is not None and demand.high is not None:
        return demand.low + (demand.high - demand.low) * rng.random(port.shape)
    return demand.low + np.abs(noise) if demand.low is not None else (demand.high or 0.0) - np.abs(noise)


def _looks_like_picture(shape: tuple[int, ...]) -> bool:
    if len(shape) != 4:
        return False
    channels_first = shape[1] in (1, 3) and min(shape[2:]) >= 16
    channels_last = shape[3] in (1, 3) and min(shape[1:3]) >= 16
    return channels_first or channels_last


def _picture(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Smooth colour gradients, an edge and a little noise, in 0 to 1: filters see structure as in a photo."""
    last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    batch, channels, height, width = (shape[0], shape[3], *shape[1:3]) if last else shape
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    phase = rng.random((batch, channels, 3))[..., None, None]
    waves = np.sin(6.3 * (phase[:, :, 0] * 3 * x + phase[:, :, 1] * 3 * y + phase[:, :, 2]))
    picture = 0.5 + 0.35 * waves + 0.15 * (x + y > 1)
    noisy = picture + 0.03 * rng.standard_normal(picture.shape)
    picture = np.asarray(np.clip(noisy, 0, 1), dtype=np.float64)
    return picture.transpose(0, 2, 3, 1) if last else picture


def _spread(array: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[Any]:
    """Values over a whole range: a picture from its darkest to its brightest, noise with three deviations each way."""
    if not _looks_like_picture(array.shape):
        return np.asarray((low + high) / 2 + (high - low) / 6 * array, array.dtype)
    darkest, brightest = float(array.min()), float(array.max())
    share = (array - darkest) / ((brightest - darkest) or 1.0)
    return np.asarray(low + (high - low) * share, array.dtype)


def _ranges_of_grids(model: ModelProto) -> dict[str, tuple[float, float]]:
    """Inputs that the model quantises first, with the range of that grid.

    Values in a small part of it would leave most codes, and what is rounded beside them, untried.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    source = {value.name: value.name for value in model.graph.input}
    found = dict[str, tuple[float, float]]()
    for node in model.graph.node:
        origin = source.get(node.input[0]) if node.input else None
        if origin is None:
            continue
        if node.op_type in MOVING:
            source[node.output[0]] = origin
        elif node.op_type == "QuantizeLinear" and all(name in constants for name in node.input[1:]):
            scale, *zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
            dtype = zero[0].dtype if zero else np.dtype(np.uint8)
            if (
                scale.size == 1
                and dtype.kind in "iu"
                and dtype.itemsize < 4
                and 0 < float(scale.max()) < np.inf
            ):
                point, step, limits = int(zero[0].max()) if zero else 0, float(scale.max()), np.iinfo(dtype)
                found[origin] = (int(limits.min) - point) * step, (int(limits.max) - point) * step
    return found


def _pictures_in_bytes(model: ModelProto) -> set[str]:
    """Inputs from which the model takes a mean of more than 2 first: their values go to 255, not to 1.

    In a range of their own a hundredth as wide, the difference of neighbouring pixels is lost in rounding: what
    normalises it afterwards amplifies the error, on every side of a comparison.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found, inputs = set[str](), {value.name for value in model.graph.input}
    for node in model.graph.node:
        given = [name for name in node.input if name in inputs]
        if node.op_type == "ImageScaler":
            bias = [v for a in node.attribute if a.name == "bias" for v in a.floats]
        elif node.op_type in ("Add", "Sub", "BatchNormalization"):
            position = 3 if node.op_type == "BatchNormalization" else 1
            tensor = constants.get(node.input[position]) if len(node.input) > position else None
            bias = [] if tensor is None else numpy_helper.to_array(tensor).reshape(-1).tolist()
        else:
            bias = []
        if bias and max(map(abs, bias)) > 2:
            found.update(given)
    return found
