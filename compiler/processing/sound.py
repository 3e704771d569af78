"""From samples to rows of log-mel or MFCC features: the streaming preprocessing of an audio model.

Each call computes the frames that are new and nothing else. The discrete Fourier transform is two products with tables
of cosines and sines, folded around the middle of a frame (the even part of the samples meets cosines only, the odd part
sines), in vector code; magnitudes do not depend on where the phase begins.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.runtime.card import AudioInput
from edgec.runtime.processing.audio import BLOCK, TableShapes
from edgec.runtime.processing.compiled import FEATURES

Tir: TypeAlias = Any  # TVM's expressions and buffers are made at import time and have no static types

_LANES = 16
_TILE = 2 * _LANES
"""Frequencies whose sums are held in registers: four vectors of eight lanes for each table on AVX2."""


class FeatureKernel:
    """Writes `edgec_features(samples, count, window, cosines, sines, filters[, dct], rows)`.

    `samples` holds `count[0]` frames (at most `BLOCK`), a step apart; `rows [BLOCK, width]` gets a row for
    each. The tables are those of `edgec.runtime.processing.audio.TableShapes`.
    """

    def __init__(self, card: AudioInput) -> None:
        self.card, self.shapes = card, TableShapes.of(card)

    def build(self) -> PrimFunc:
        """The function."""
        shapes = self.shapes
        with IRBuilder() as builder, T.prim_func():
            T.func_name(FEATURES)
            T.func_attr({"global_symbol": FEATURES, "tirx.is_scheduled": True, "tirx.noalias": True})
            samples = T.arg("samples", T.buffer((shapes.samples,), "float32"))
            count = T.arg("count", T.buffer((1,), "int32"))
            window = T.arg("window", T.buffer((2 * shapes.half,), "float32"))
            tables = [
                T.arg(name, T.buffer((shapes.half, shapes.bins), "float32")) for name in ("cosines", "sines")
            ]
            filters = T.arg("filters", T.buffer((shapes.bins, shapes.mels), "float32"))
            dct = None
            if self.card.features == "mfcc":
                dct = T.arg("dct", T.buffer((self.card.mels, shapes.width), "float32"))
            rows = T.arg("rows", T.buffer((BLOCK, shapes.width), "float32"))
            parts = [T.alloc_buffer((shapes.half,), "float32") for _ in range(2)]
            spectrum = T.alloc_buffer((shapes.bins,), "float32")
            mel = T.alloc_buffer((shapes.mels,), "float32")
            with T.serial(0, count[0]) as frame:
                self._fold(samples, frame, window, parts)
                self._transform(parts, tables, spectrum)
                self._sum(spectrum, filters, mel)
                self._write(mel, dct, rows, frame)
        return builder.get()

    def _fold(self, samples: Tir, frame: Tir, window: Tir, parts: list[Tir]) -> None:
        """The even and odd part of a windowed frame, from its middle outwards."""
        half, start = self.shapes.half, frame * self.shapes.step
        even, odd = parts
        with T.serial(0, half) as i:
            after = samples[start + half + i] * window[half + i]
            before = samples[start + half - 1 - i] * window[half - 1 - i]
            T.buffer_store(even, after + before, [i])
            T.buffer_store(odd, after - before, [i])

    def _transform(self, parts: list[Tir], tables: list[Tir], spectrum: Tir) -> None:
        """Power or magnitude of every frequency."""
        with T.serial(0, self.shapes.bins // _TILE) as tile:
            sums = [[T.alloc_buffer((_LANES,), "float32", scope="local") for _ in range(2)] for _ in parts]
            for one in (*sums[0], *sums[1]):
                with T.vectorized(0, _LANES) as lane:
                    T.buffer_store(one, T.float32(0), [lane])
            with T.serial(0, self.shapes.half) as i:
                for part, table, two in zip(parts, tables, sums, strict=True):
                    for place, one in enumerate(two):
                        with T.vectorized(0, _LANES) as lane:
                            value = table[i, tile * _TILE + place * _LANES + lane]
                            T.buffer_store(one, one[lane] + part[i] * value, [lane])
            for place in range(2):
                with T.vectorized(0, _LANES) as lane:
                    real, imaginary = sums[0][place][lane], sums[1][place][lane]
                    power = real * real + imaginary * imaginary
                    value = power if self.card.power == 2 else T.sqrt(power)
                    T.buffer_store(spectrum, value, [tile * _TILE + place * _LANES + lane])

    def _sum(self, spectrum: Tir, filters: Tir, mel: Tir) -> None:
        """What passes each filter."""
        with T.serial(0, self.shapes.mels // _LANES) as block:
            total = T.alloc_buffer((_LANES,), "float32", scope="local")
            with T.vectorized(0, _LANES) as lane:
                T.buffer_store(total, T.float32(0), [lane])
            with T.serial(0, self.shapes.bins) as k, T.vectorized(0, _LANES) as lane:
                value = spectrum[k] * filters[k, block * _LANES + lane]
                T.buffer_store(total, total[lane] + value, [lane])
            with T.vectorized(0, _LANES) as lane:
                T.buffer_store(mel, total[lane], [block * _LANES + lane])

    def _write(self, mel: Tir, dct: Tir | None, rows: Tir, frame: Tir) -> None:
        """Logarithms, for MFCC their cosine transform, then the card's mean and scale."""
        card = self.card
        mean, scale = T.float32(card.mean), T.float32(card.scale)
        with T.serial(0, card.mels) as j:
            T.buffer_store(mel, T.log(mel[j] + T.float32(card.log_offset)), [j])
        with T.serial(0, self.shapes.width) as c:
            if dct is None:
                T.buffer_store(rows, (mel[c] - mean) * scale, [frame, c])
            else:
                total = T.alloc_buffer((1,), "float32", scope="local")
                T.buffer_store(total, T.float32(0), [0])
                with T.serial(0, card.mels) as j:
                    T.buffer_store(total, total[0] + mel[j] * dct[j, c], [0])
                T.buffer_store(rows, (total[0] - mean) * scale, [frame, c])
