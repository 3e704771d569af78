"""How close each layer comes to the machine's peak, on a machine shared with others.

A noisy neighbour on the core's other hardware thread slows it down for seconds at a time: on a Cascade Lake, the inner
loop of a convolution falls from 150 to between 70 and 110 GFLOP/s, while arithmetic on registers alone, which defines
the peak, stays between 100 and 150. So a loop like a convolution's is timed right before and right after each layer in
each run: it shows what part of the peak was available at that moment. Only runs in which both timings were near the
fastest of all count, that is, undisturbed ones. They are selected by the machine's speed and not by the layer's, which
would flatter the layer. Where there are too few of them, the runs count in which both timings agree, and the layer's
rate is divided by the rate that was available.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from edgec.runtime.execution.profiling import LayerRuns
from edgec.targets.measured_rates import Bandwidth

UNDISTURBED = 0.95  # the peak before and after a layer is at least this part of the highest
STEADY = 0.1  # the peak before and after a layer differs by less than this part of the larger
ENOUGH = 5  # runs that must remain for the others to be left out
HIGHEST = 98  # the percentile taken as the highest rate
MOVED = 1.1  # the machine is unsteady when the highest peak is this many times the lowest
WATCHED_S = 10.0  # a loop that is slow and steady for this long runs on a smaller core and is not disturbed


@dataclass(frozen=True)
class LayerShare:
    """One layer relative to the machine's rates at the same moments; medians over the runs that count.

    Attributes:
        gflops: billions of fp32 operations per second.
        gbytes: billions of bytes per second.
        peak_share: share of the highest fp32 rate; None for a layer without arithmetic of its own.
        peak_share_quartiles: its quartiles over the runs.
        memory_share: share of the layer's time that reading and writing its arrays once takes at the measured
            bandwidth.
        bound: the larger of both shares: `compute`, or the source of most bytes (`L2`, `L3`, `memory`).
        runs: runs that were timed.
        left_out: runs that did not count.
        undisturbed: whether the machine was at its highest rate in the runs that counted.
    """

    gflops: float
    gbytes: float
    peak_share: float | None
    peak_share_quartiles: tuple[float, float] | None
    memory_share: float
    bound: str
    runs: int
    left_out: int
    undisturbed: bool


@dataclass(frozen=True)
class PeakSpread:
    """The highest fp32 rate in GFLOP/s (`high`), and the rate available while the layers ran: its median and 5th
    percentile (`low`).
    """

    median: float
    low: float
    high: float

    @property
    def steady(self) -> bool:
        """Whether the available rate stayed about the same."""
        return self.high <= MOVED * self.low


def in_gflops_factor(layers: Sequence[LayerRuns], peak: float, reach: float) -> float:
    """The factor from the loop's rate to the available fp32 rate: the fastest loop had all of `peak` available, unless
    it was slower than `reach` of it and so disturbed.
    """
    speeds = [speed for layer in layers for pair in layer.probes for speed in pair]
    fastest = float(np.percentile(speeds, HIGHEST)) if speeds else 0.0
    return peak / (max(fastest, reach * peak) or 1.0)


def in_gflops(layers: Sequence[LayerRuns], peak: float, reach: float = 0.0) -> list[LayerRuns]:
    """`layers` with the loop's rates converted to the available fp32 rates."""
    factor = in_gflops_factor(layers, peak, reach)
    return [
        replace(layer, probes=tuple((before * factor, after * factor) for before, after in layer.probes))
        for layer in layers
    ]


def seen_reach(rates: Sequence[float], peak: float, reach: float, watched_s: float) -> float:
    """The part of `peak` that an undisturbed loop reaches, as `Machine` has it.

    It is `reach`, unless the loop's `rates` were all below it and steady for `watched_s` seconds: some processors load
    only one vector per cycle, while neighbours come and go.
    """
    if watched_s < WATCHED_S or not rates:
        return reach
    low, fastest = float(np.percentile(rates, 5)), max(rates)
    slower = fastest < UNDISTURBED * reach * peak
    return 0.0 if slower and fastest <= MOVED * low else reach


def peak_spread(layers: Sequence[LayerRuns], peak: float) -> PeakSpread:
    """How much of `peak` was available while `layers` ran; they have been probed."""
    rates = [rate for layer in layers for pair in layer.probes for rate in pair]
    low, middle = np.percentile(rates, (5, 50))
    return PeakSpread(float(middle), float(low), peak)


def undisturbed_runs(layer: LayerRuns, highest: float) -> list[int]:
    """The runs in which the machine was near its highest rate before and after the layer."""
    return [k for k, pair in enumerate(layer.probes) if min(pair) >= UNDISTURBED * highest]


def counting_runs(layer: LayerRuns, highest: float) -> list[int]:
    """The runs by which a layer is judged: undisturbed ones; with fewer than `ENOUGH` of them, those in which the
    machine's rate was about the same before and after; with too few of these, all.
    """
    steady = [k for k, pair in enumerate(layer.probes) if max(pair) - min(pair) <= STEADY * max(pair)]
    for chosen in (undisturbed_runs(layer, highest), steady):
        if len(chosen) >= min(ENOUGH, len(layer.probes)):
            return chosen
    return list(range(len(layer.probes)))


def footprint(layers: Sequence[LayerRuns]) -> int:
    """Bytes that a run touches: all weights, and the other arrays of the largest layer."""
    others = max((layer.bytes - layer.weight_bytes for layer in layers), default=0)
    return sum(layer.weight_bytes for layer in layers) + others


def layer_share(layer: LayerRuns, bandwidths: Sequence[Bandwidth], reach: int, highest: float) -> LayerShare:
    """Relate a layer's times to the rates measured beside them.

    Args:
        layer: probed with the highest fp32 rate in GFLOP/s.
        bandwidths: one per run, measured around it.
        reach: bytes that a whole run touches: so many bytes ago the weights were last read, while a layer's other
            arrays come from the previous layer.
        highest: the machine's highest fp32 rate overall, in GFLOP/s.
    """
    chosen = counting_runs(layer, highest)
    peaks, memory = [], []
    for k in chosen:
        took, (before, after) = layer.seconds[k] or 1e-9, layer.probes[k]
        peaks.append(layer.flops / took / 1e9 / ((before + after) / 2))
        memory.append(_memory_seconds(layer, bandwidths[k], reach) / took)
    seconds = median(layer.seconds[k] for k in chosen) or 1e-9
    peak_share, memory_share = median(peaks), median(memory)
    quartiles = np.percentile(peaks, (25, 75))
    bound = "compute" if peak_share >= memory_share else _source(layer, bandwidths[chosen[0]], reach)
    return LayerShare(
        gflops=layer.flops / seconds / 1e9,
        gbytes=layer.bytes / seconds / 1e9,
        peak_share=peak_share if layer.flops else None,
        peak_share_quartiles=(float(quartiles[0]), float(quartiles[1])) if layer.flops else None,
        memory_share=memory_share,
        bound=bound,
        runs=len(layer.seconds),
        left_out=len(layer.seconds) - len(chosen),
        undisturbed=set(chosen) <= set(undisturbed_runs(layer, highest)),
    )


def _memory_seconds(layer: LayerRuns, bandwidth: Bandwidth, reach: int) -> float:
    others = layer.bytes - layer.weight_bytes
    return (layer.weight_bytes / bandwidth.of(reach)[1] + others / bandwidth.of(layer.bytes)[1]) / 1e9


def _source(layer: LayerRuns, bandwidth: Bandwidth, reach: int) -> str:
    """The source of the bytes that take most of a layer's time."""
    others = layer.bytes - layer.weight_bytes
    weights_from, weights_rate = bandwidth.of(reach)
    others_from, others_rate = bandwidth.of(layer.bytes)
    return weights_from if layer.weight_bytes / weights_rate > others / others_rate else others_from
