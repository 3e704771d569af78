"""Layers with weights: convolutions, normalisations, dense layers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgec.models.graph import activation_statistics as statistics
from edgec.models.graph import random_weights
from edgec.models.graph.builder import Builder
from edgec.models.graph.values import Padding, Pair, Value, moments_of, pair, sides


class Layers(Builder):
    """Layers with weights."""

    def conv(
        self,
        x: Value,
        out_channels: int,
        kernel: Pair,
        name: str,
        *,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | float = False,
        gain: float = 2.0,
    ) -> Value:
        """Two-dimensional convolution of `[N, C, H, W]`; weights of variance `gain / fan_in`.

        `bias` is whether there is one, or the mean of its values.
        """
        kh, kw = pair(kernel)
        sh, sw = pair(stride)
        pads = sides(padding)
        n, channels, h, w = x.shape
        shape = (out_channels, channels // groups, kh, kw)
        std = math.sqrt(gain / (shape[1] * kh * kw))
        with self.scope(name):
            weight, values = self.parameter("weight", lambda key: _filters(key, shape, std, x, groups))
            if values.shape != shape:
                raise ValueError(f"{weight} has shape {values.shape}, the architecture requires {shape}")
            inputs = [x.name, weight]
            if bias is not False:
                inputs.append(self._bias(out_channels, float(bias) if bias is not True else 0.0))
        oh = (h + pads[0] + pads[2] - dilation * (kh - 1) - 1) // sh + 1
        ow = (w + pads[1] + pads[3] - dilation * (kw - 1) - 1) // sw + 1
        self.count(n * oh * ow * values.size)
        return self._one(
            "Conv", inputs, (n, out_channels, oh, ow), statistics.through_weights(moments_of(x), values, groups), name,
            dilations=[dilation] * 2, group=groups, kernel_shape=[kh, kw], pads=list(pads), strides=[sh, sw],
        )  # fmt: skip

    def conv_transpose(self, x: Value, out_channels: int, kernel: int, stride: int, name: str) -> Value:
        """Transposed convolution with bias and no padding (up-convolution: `kernel == stride`)."""
        n, channels, h, w = x.shape
        with self.scope(name):
            shape = (channels, out_channels, kernel, kernel)
            weight, values = self.weight("weight", shape, math.sqrt(2.0 / channels))
            inputs = [x.name, weight, self._bias(out_channels)]
        self.count(n * h * w * values.size)
        taps = np.ascontiguousarray(values.transpose(1, 0, 2, 3)).reshape(out_channels, channels, -1)
        once = statistics.through_weights(
            moments_of(x), taps / np.float32(kernel), 1
        )  # every output sees one tap
        return self._one(
            "ConvTranspose", inputs, (n, out_channels, h * stride, w * stride), once, name,
            dilations=[1, 1], group=1, kernel_shape=[kernel] * 2, pads=[0] * 4, strides=[stride] * 2,
        )  # fmt: skip

    def _bias(self, size: int, mean: float = 0.0) -> str:
        spread = 0.035
        return self.parameter(
            "bias", lambda k: random_weights.uniform(k, (size,), mean - spread, mean + spread)
        )[0]

    def batch_norm(self, x: Value, name: str, *, gain: float = 1.0) -> Value:
        """Batch norm with the expected statistics of its input; `gain` scales the output."""
        size, expected = x.channels, moments_of(x)
        with self.scope(name):
            scale, gamma = self.parameter(
                "weight", lambda k: random_weights.uniform(k, (size,), 0.7 * gain, 1.3 * gain)
            )
            shift, beta = self.parameter("bias", lambda k: random_weights.uniform(k, (size,), -0.25, 0.25))
            noise = random_weights.uniform(f"{self.name}/{self._path('noise')}", (size,), -0.1, 0.1)
            mean, mu = self.parameter(
                "running_mean",
                lambda _: statistics.coarse(expected.mean + noise * np.sqrt(expected.var)),
                counted=False,
            )
            var, sigma2 = self.parameter(
                "running_var",
                lambda _: (expected.var * (1.0 + noise[::-1])).astype(np.float32),
                counted=False,
            )
        slope = gamma.astype(np.float64) / np.sqrt(sigma2.astype(np.float64) + self.eps)
        after = expected.affine(slope, beta - mu * slope)
        return self._one(
            "BatchNormalization", [x.name, scale, shift, mean, var], x.shape, after, name,
            epsilon=self.eps, momentum=0.9,
        )  # fmt: skip

    def dense(self, x: Value, out_features: int, name: str, gain: float = 1.0) -> Value:
        """Fully connected layer on `[N, features]`, exported as Gemm."""
        rows, features = x.shape
        with self.scope(name):
            weight, values = self.weight("weight", (out_features, features), math.sqrt(gain / features))
            bias = self._bias(out_features)
        self.count(rows * values.size)
        return self._one(
            "Gemm", [x.name, weight, bias], (rows, out_features),
            statistics.through_weights(moments_of(x), values, 1), name, alpha=1.0, beta=1.0, transB=1,
        )  # fmt: skip

    def linear(self, x: Value, out_features: int, name: str, gain: float = 1.0) -> Value:
        """Fully connected layer on the last axis of any tensor, exported as MatMul and Add."""
        features = x.shape[-1]
        with self.scope(name):
            key = self._path("weight")
            _, values = self.parameter(
                "weight",
                lambda k: random_weights.symmetric(k, (features, out_features), math.sqrt(gain / features)),
            )
            bias = self._bias(out_features)
        shape = (*x.shape[:-1], out_features)
        self.count(math.prod(x.shape[:-1]) * values.size)
        product = self._one("MatMul", [x.name, key], shape, name=name)
        return self._one("Add", [bias, product.name], shape, name=name)

    def layer_norm(self, x: Value, name: str, eps: float = 1e-6) -> Value:
        """Layer norm over the last axis (LayerNormalization, opset 17)."""
        size = x.shape[-1]
        with self.scope(name):
            scale, _ = self.parameter("weight", lambda k: random_weights.uniform(k, (size,), 0.8, 1.2))
            shift, _ = self.parameter("bias", lambda k: random_weights.uniform(k, (size,), -0.1, 0.1))
        return self._one(
            "LayerNormalization", [x.name, scale, shift], x.shape, name=name, axis=-1, epsilon=eps
        )


def _filters(
    key: str, shape: tuple[int, int, int, int], std: float, x: Value, groups: int
) -> NDArray[np.float32]:
    """Random filters, orthogonal to the channels' expected means where there are enough channels.

    Zero padding then changes no expected value, and no constant component grows from layer to layer.
    """
    values = random_weights.symmetric(key, shape, std)
    if groups > 1 or shape[1] < 8:
        return values
    mean = statistics.coarse(moments_of(x).mean)
    power = float(mean.astype(np.float64) @ mean)
    if power < 1e-3:
        return values
    along = np.einsum("ochw,c->ohw", values.astype(np.float64), mean.astype(np.float64)) / power
    result: NDArray[np.float32] = values - statistics.coarse(along)[:, None] * mean[None, :, None, None]
    return result
