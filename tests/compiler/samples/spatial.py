"""Convolutions, pools, resizing, normalisation of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.compiler.samples import truths
from tests.compiler.samples.sample import FLOATS, Draw, Sample, family

AUTO = ("NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def window(draw: Draw, axes: int, *, dilated: bool = True) -> dict[str, Any]:
    """Strides, dilations and pads (smaller than the window) of a window over some axes."""
    kernel = draw.many(axes, 1, 3)
    attrs: dict[str, Any] = {"kernel_shape": kernel}
    if draw.chance(0.7):
        attrs["strides"] = draw.many(axes, 1, 3)
    if dilated and draw.chance(0.4):
        attrs["dilations"] = draw.many(axes, 1, 2)
    auto = draw.pick(AUTO)
    if auto != "NOTSET":
        attrs["auto_pad"] = auto
    elif draw.chance(0.7):
        attrs["pads"] = [draw.within(0, k - 1) for k in kernel * 2]
    return attrs


@family
def pool(draw: Draw) -> Sample:
    op, axes = draw.pick(("AveragePool", "AveragePool", "MaxPool", "MaxPool", "LpPool")), draw.within(1, 3)
    x = draw.reals(
        [draw.within(1, 2), draw.within(1, 2), *draw.many(axes, 5, 8 - axes)], "float32", draw.extremes()
    )
    opset = draw.pick((22, 19)) if op == "AveragePool" else 22
    attrs = window(draw, axes)
    if draw.chance() and "auto_pad" not in attrs:
        attrs["ceil_mode"] = 1
    if op == "AveragePool" and draw.chance():
        attrs["count_include_pad"] = 1
    if op == "LpPool":
        attrs["p"] = draw.within(1, 3)
    if op == "MaxPool" and draw.chance(0.3):
        x = draw.integers(x.shape, draw.pick(("int8", "uint8")))
    outputs = 1
    if op == "MaxPool" and x.dtype == np.float32 and draw.chance(0.3):
        attrs["storage_order"], outputs = draw.within(0, 1), 2
    if outputs == 2:
        x = draw.rng.permutation(x.size).reshape(x.shape).astype("float32")
    with np.errstate(all="ignore"):
        truth = truths.pooled(op, x, attrs)[:outputs]
    return Sample(op, (x,), attrs, opset, outputs=outputs, truth=truth)


@family
def global_pool(draw: Draw) -> Sample:
    op = draw.pick(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"))
    x = draw.reals(draw.shape(3, 5), draw.pick(FLOATS), draw.extremes())
    p = draw.within(1, 3)
    with np.errstate(all="ignore"):
        truth = truths.whole_pool(op, x, p)
    return Sample(op, (x,), {"p": p} if op == "GlobalLpPool" else {}, truth=(truth,))


@family
def convolution(draw: Draw) -> Sample:
    axes, groups = draw.within(1, 3), draw.pick((1, 1, 2, 3))
    attrs = window(draw, axes)
    inputs, outputs = groups * draw.within(1, 2), groups * draw.within(1, 3)
    # the evaluator widens kernels with zeros, and edgec narrow groups; both are NaN times zero
    exact = groups == 1 and max(attrs.get("dilations", [1])) == 1
    special = draw.pick((0.0, 0.01)) if exact else 0.0
    x = draw.reals([draw.within(1, 2), inputs, *draw.many(axes, 5, 8)], special=special)
    w = draw.reals([outputs, inputs // groups, *attrs["kernel_shape"]])
    b = draw.reals([outputs]) if draw.chance() else None
    attrs |= {"group": groups}
    if draw.chance(0.3):
        del attrs["kernel_shape"]
    return Sample("Conv", (x, w, b), attrs, fixed=frozenset({1, 2}) if draw.chance(0.7) else frozenset())


@family
def transposed_convolution(draw: Draw) -> Sample:
    axes, groups = draw.within(1, 3), 1  # the evaluator fails with groups
    kernel = draw.many(axes, 1, 3)
    strides = draw.many(axes, 1, 3)
    inputs, outputs = groups * draw.within(1, 2), draw.within(1, 3)
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "group": groups}
    if draw.chance(0.4):
        attrs["dilations"] = draw.many(axes, 1, 2)
    auto = draw.pick(AUTO)
    if auto.startswith("SAME"):  # with positions that no input reaches, edgec follows ONNX Runtime
        attrs["strides"] = [min(s, k) for s, k in zip(strides, kernel, strict=True)]
    if auto != "NOTSET":
        attrs["auto_pad"] = auto
    elif draw.chance():
        attrs["pads"] = [draw.within(0, (k - 1) // 2) for k in kernel * 2]
    if draw.chance(0.4):
        attrs["output_padding"] = [draw.within(0, s - 1) for s in attrs["strides"]]
    x = draw.reals([draw.within(1, 2), inputs, *draw.many(axes, 3, 6)])
    w = draw.reals([inputs, outputs, *kernel])
    b = draw.reals([outputs * groups]) if draw.chance() else None
    return Sample(
        "ConvTranspose", (x, w, b), attrs, fixed=frozenset({1, 2}) if draw.chance(0.7) else frozenset()
    )


@family
def resize(draw: Draw) -> Sample:
    opset = draw.pick((11, 13, 18, 19, 19))
    mode = draw.pick(("nearest", "nearest", "linear", "cubic"))
    coordinates = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"]
    coordinates += ["half_pixel_symmetric"] * (opset >= 19)
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": draw.pick(coordinates)}
    rank = draw.within(2, 3) if mode == "cubic" else draw.within(1, 4)
    shape = draw.many(rank, 2, 5)
    if mode == "nearest":
        attrs["nearest_mode"] = draw.pick(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
    if mode == "cubic":
        attrs["cubic_coeff_a"] = draw.pick((-0.75, -0.5))
    if mode != "nearest" and draw.chance(0.3):
        attrs["exclude_outside"] = 1
    crop = attrs["coordinate_transformation_mode"] == "tf_crop_and_resize"
    if opset >= 18 and mode != "nearest" and not crop and draw.chance(0.3):
        attrs["antialias"] = 1
    axes = list(range(rank))
    if opset >= 18 and draw.chance(0.4):
        axes = sorted(a % rank for a in draw.axes(rank))
        attrs["axes"] = axes
    dtype = (
        draw.pick(("float32", "float32", "float32", "float16", "uint8", "int8"))
        if mode == "nearest"
        else "float32"
    )
    roi = None
    if crop:
        begin = draw.rng.uniform(-0.2, 0.5, len(axes))
        end = begin + draw.rng.uniform(0.2, 0.9, len(axes))
        roi = np.concatenate([begin, end]).astype("float32")
        attrs["extrapolation_value"] = 7.0
    x = draw.numbers(shape, dtype)  # the evaluator multiplies even what it only picks
    fixed = frozenset({1, 2, 3})
    if crop or draw.chance():  # of regions, it takes sizes for fractions
        # of a single element, it takes another coordinate than the standard's text (pytorch_half_pixel)
        sizes = np.asarray(draw.many(len(axes), 2 if mode == "cubic" else 1, 9), "int64")
        if opset >= 18 and not crop and draw.chance(0.3):
            attrs["keep_aspect_ratio_policy"] = draw.pick(("not_larger", "not_smaller"))
        return Sample("Resize", (x, _roi(roi, opset), _none(opset), sizes), attrs, opset, fixed, rtol=1e-4)
    factors = [1.0, 1.5, 2.0, 2.3, 3.0] if mode == "cubic" else [0.5, 0.6, 1.0, 1.5, 2.0, 2.3, 3.0]
    scales = draw.rng.choice(factors, len(axes)).astype("float32")
    return Sample("Resize", (x, _roi(roi, opset), scales), attrs, opset, fixed, rtol=1e-4)


def _roi(roi: np.ndarray | None, opset: int) -> np.ndarray | None:
    return roi if roi is not None or opset >= 13 else np.zeros(0, "float32")


def _none(opset: int) -> np.ndarray | None:
    return None if opset >= 13 else np.zeros(0, "float32")


@family
def old_resize(draw: Draw) -> Sample:
    """Only the nearest pixel: the evaluator knows no other Upsample, and no Resize of operator set 10."""
    scales = np.asarray([1, 1, draw.pick((1.0, 1.5, 2.0)), draw.pick((1.0, 2.0, 3.0))], "float32")
    return Sample(
        "Upsample", (draw.reals(draw.many(4, 2, 4)), scales), {"mode": "nearest"}, 9, frozenset({1})
    )


@family
def instance_normalisation(draw: Draw) -> Sample:
    shape = draw.shape(3, 5)
    special = draw.pick((0.0, 0.02))
    x, scale, shift = draw.reals(shape, special=special), draw.reals(shape[1:2]), draw.reals(shape[1:2])
    return Sample(
        "InstanceNormalization", (x, scale, shift), {"epsilon": 1e-3}, fixed=frozenset({1, 2}), rtol=1e-4
    )


@family
def batch_normalisation(draw: Draw) -> Sample:
    shape = draw.shape(2, 5)
    x = draw.reals(shape, special=draw.extremes())
    vectors = [draw.reals(shape[1:2]) for _ in range(3)]
    variance = np.abs(draw.reals(shape[1:2])) + np.float32(0.1)
    fixed = frozenset({1, 2, 3, 4}) if draw.chance() else frozenset[int]()
    return Sample("BatchNormalization", (x, *vectors, variance), {"epsilon": 1e-3}, 15, fixed, rtol=1e-4)


@family
def layer_normalisation(draw: Draw) -> Sample:
    op, opset = draw.pick((("LayerNormalization", 17), ("RMSNormalization", 23)))
    dtype = draw.pick(("float32", "float32", "float16"))
    x = draw.reals(draw.shape(1), dtype, draw.pick((0.0, 0.05)))
    axis = draw.axis(x.ndim)
    scale = draw.reals(x.shape[axis % x.ndim :], dtype)
    shift = draw.reals(scale.shape, dtype) if op == "LayerNormalization" and draw.chance() else None
    outputs = draw.within(1, 3) if op == "LayerNormalization" and dtype == "float32" else 1
    inputs = (x, scale, shift) if op == "LayerNormalization" else (x, scale)
    return Sample(
        op,
        inputs,
        {"axis": axis, "epsilon": 1e-3},
        opset,
        outputs=outputs,
        rtol=3e-3 if dtype == "float16" else 1e-4,
    )


@family
def group_normalisation(draw: Draw) -> Sample:
    groups = draw.within(1, 3)
    channels = groups * draw.within(1, 2)
    x = draw.reals([draw.within(1, 2), channels, *draw.shape(1, 3)], special=draw.pick((0.0, 0.02)))
    inputs = (x, draw.reals([channels]), draw.reals([channels]))
    return Sample("GroupNormalization", inputs, {"num_groups": groups, "epsilon": 1e-3}, 21, rtol=1e-4)


@family
def local_response(draw: Draw) -> Sample:
    x = draw.reals([draw.within(1, 2), draw.within(1, 6), *draw.shape(2, 2)], special=draw.extremes())
    attrs = {"size": draw.within(1, 6), "alpha": 0.3, "beta": 0.7, "bias": 1.5}
    with np.errstate(all="ignore"):
        truth = truths.local_response(x, attrs)
    return Sample("LRN", (x,), attrs, 13, rtol=1e-4, truth=(truth,))


@family
def mean_variance(draw: Draw) -> Sample:
    x = draw.reals(draw.shape(4, 4), special=draw.pick((0.0, 0.02)))
    return Sample(
        "MeanVarianceNormalization", (x,), {"axes": draw.pick(([0, 2, 3], [1, 2, 3], [2, 3]))}, 13, rtol=1e-4
    )


@family
def grid_sample(draw: Draw) -> Sample:
    axes = draw.pick((2, 2, 3))
    mode = draw.pick(("linear", "nearest")) if axes == 3 else draw.pick(("linear", "nearest", "cubic"))
    attrs = {
        "mode": mode,
        "padding_mode": draw.pick(("zeros", "border", "reflection")),
        "align_corners": draw.within(0, 1),
    }
    n = draw.within(1, 2)
    x = draw.reals([n, draw.within(1, 2), *draw.many(axes, 2, 5)])
    grid = draw.rng.uniform(-1.6, 1.6, (n, *draw.many(axes, 1, 4), axes)).astype("float32")
    return Sample("GridSample", (x, grid), attrs, 20 if axes == 3 else draw.pick((20, 22)), rtol=1e-3)


@family
def roi_align(draw: Draw) -> Sample:
    images, channels, height, width = draw.within(1, 2), draw.pick((1, 3, 8)), *draw.many(2, 2, 8)
    x = draw.reals([images, channels, height, width], draw.pick(("float32", "float32", "float64")))
    count = draw.within(1, 4)
    low = draw.rng.uniform(-4, 16, (count, 2))
    regions = np.concatenate([low, low + draw.rng.uniform(0.1, 20, (count, 2))], -1).astype(x.dtype)
    batch = draw.integers([count], "int64", 0, images - 1)
    opset = draw.pick((16, 22))  # the evaluator takes version 10 for 16
    attrs: dict[str, Any] = {"mode": draw.pick(("avg", "avg", "max")), "sampling_ratio": draw.within(0, 3)}
    attrs |= {"output_height": draw.within(1, 4), "output_width": draw.within(1, 4), "spatial_scale": 0.5}
    if draw.chance():
        attrs["coordinate_transformation_mode"] = draw.pick(("half_pixel", "output_half_pixel"))
    return Sample("RoiAlign", (x, regions, batch), attrs, opset, rtol=1e-4)


@family
def deform_conv(draw: Draw) -> Sample:
    n, group, offset_group = draw.within(1, 2), draw.within(1, 2), draw.within(1, 2)
    channels, outputs = 2 * draw.within(1, 2), 2 * draw.within(1, 2)
    kernel, strides, dilations = draw.many(2, 1, 3), draw.many(2, 1, 2), draw.many(2, 1, 2)
    pads, size = draw.many(4, 0, 2), draw.many(2, 5, 7)
    out = [
        (size[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(2)
    ]
    x, w = draw.reals([n, channels, *size]), draw.reals([outputs, channels // group, *kernel])
    taps = offset_group * int(np.prod(kernel))
    offsets = draw.reals([n, taps * 2, *out]) * np.float32(0.7)
    bias = draw.reals([outputs]) if draw.chance() else None
    mask = draw.reals([n, taps, *out]) if draw.chance() else None
    attrs = {"group": group, "offset_group": offset_group, "kernel_shape": kernel, "strides": strides}
    attrs |= {"dilations": dilations, "pads": pads}
    return Sample("DeformConv", (x, w, offsets, bias, mask), attrs, draw.pick((19, 22)), rtol=1e-3)
