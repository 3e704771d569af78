"""How near each layer comes to what the machine can do, on a machine that others share.

A neighbour on the other half of a core takes seconds of its speed at a time: on a Cascade Lake, the inner loop of a
convolution falls from 150 to between 70 and 110 GFLOP/s, while arithmetic on registers alone, which defines the peak,
stays between 100 and 150. So a loop like a convolution's is timed right before and right after each layer in each run:
it says what part of the peak was to be had in that moment. What counts are the runs in which both were near the fastest
of all: nobody disturbed. They are chosen by the machine's speed and not by the layer's, which would flatter the layer.
Where there are too few of them, those count in which the two agree, and the layer's rate is divided by what was to be
had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from edgec.benchmarks.roofline.bandwidth import Bandwidth
from edgec.runtime.execution.profiling import LayerRuns

UNDISTURBED = 0.95  # the peak before and after a layer is at least this part of the highest
STEADY = 0.1  # the peak before and after a layer differs by less than this part of the larger
ENOUGH = 5  # runs that must be left for the others to be left out
HIGHEST = 98  # the percentile that is taken for the highest
MOVED = 1.1  # the machine is unsteady when the highest peak is this many times the lowest
WATCHED_S = 10.0  # a loop that is slow and steady for so long is not disturbed but a smaller core's


@dataclass(frozen=True)
class LayerShare:
    """One layer beside what the machine gave in the same moments; medians over the runs that count.

    `peak_share` is the part of the highest fp32 rate (None for a layer without arithmetic of its own), with the
    quartiles over the runs. `memory_share` is the part of its time that reading and writing its arrays once takes
    at the measured bandwidth. `bound` is which of the two is larger: `compute`, or where most of its bytes come
    from (`L2`, `L3`, `memory`). `gflops` and `gbytes` are rates a second. Of `runs`, `left_out` did not
    count; `undisturbed` says whether those that did had the machine at its highest rate.
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
    """The highest fp32 rate in GFLOP/s (`high`), and what of it was to be had while the layers ran: the middle, and
    the 5th percentile.
    """

    median: float
    low: float
    high: float

    @property
    def steady(self) -> bool:
        """Whether the machine gave about the same all the time."""
        return self.high <= MOVED * self.low


def in_gflops_factor(layers: Sequence[LayerRuns], peak: float, reach: float) -> float:
    """What turns the loop's rate into the fp32 rate that was to be had: the fastest loop had all of `peak`, but a loop
    that is slower than `reach` of it was disturbed.
    """
    speeds = [speed for layer in layers for pair in layer.probes for speed in pair]
    fastest = float(np.percentile(speeds, HIGHEST)) if speeds else 0.0
    return peak / (max(fastest, reach * peak) or 1.0)


def in_gflops(layers: Sequence[LayerRuns], peak: float, reach: float = 0.0) -> list[LayerRuns]:
    """`layers` with the loop's rates turned into the fp32 rates that were to be had."""
    factor = in_gflops_factor(layers, peak, reach)
    return [
        replace(layer, probes=tuple((before * factor, after * factor) for before, after in layer.probes))
        for layer in layers
    ]


def seen_reach(rates: Sequence[float], peak: float, reach: float, watched_s: float) -> float:
    """The part of `peak` that an undisturbed loop reaches, as `Machine` has it.

    It is taken to be `reach`, unless the loop's `rates` were all below it and steady while the machine was watched for
    `watched_s` seconds: there are processors that load one vector a cycle. Neighbours come and go.
    """
    if watched_s < WATCHED_S or not rates:
        return reach
    low, fastest = float(np.percentile(rates, 5)), max(rates)
    slower = fastest < UNDISTURBED * reach * peak
    return 0.0 if slower and fastest <= MOVED * low else reach


def peak_spread(layers: Sequence[LayerRuns], peak: float) -> PeakSpread:
    """How much of `peak` was to be had while `layers` ran; they have been probed."""
    rates = [rate for layer in layers for pair in layer.probes for rate in pair]
    low, middle = np.percentile(rates, (5, 50))
    return PeakSpread(float(middle), float(low), peak)


def undisturbed_runs(layer: LayerRuns, highest: float) -> list[int]:
    """The runs in which the machine was near its highest rate before and after the layer."""
    return [k for k, pair in enumerate(layer.probes) if min(pair) >= UNDISTURBED * highest]


def counting_runs(layer: LayerRuns, highest: float) -> list[int]:
    """The runs that a layer is judged by: undisturbed ones; without `ENOUGH` of them those in which the machine was
    about the same before and after; without enough of these, all.
    """
    steady = [k for k, pair in enumerate(layer.probes) if max(pair) - min(pair) <= STEADY * max(pair)]
    for chosen in (undisturbed_runs(layer, highest), steady):
        if len(chosen) >= min(ENOUGH, len(layer.probes)):
            return chosen
    return list(range(len(layer.probes)))


def footprint(layers: Sequence[LayerRuns]) -> int:
    """Bytes that a run touches: all weights, and the largest layer's other arrays."""
    others = max((layer.bytes - layer.weight_bytes for layer in layers), default=0)
    return sum(layer.weight_bytes for layer in layers) + others


def layer_share(layer: LayerRuns, bandwidths: Sequence[Bandwidth], reach: int, highest: float) -> LayerShare:
    """Put a layer's times in relation to what was measured beside them.

    Args:
        layer: probed with the highest fp32 rate in GFLOP/s.
        bandwidths: those around each run, as many as there are runs.
        reach: bytes that a whole run touches: weights were last read so many bytes ago, while a layer's other
            arrays come from the layer before.
        highest: the machine's highest fp32 rate of all the time, in GFLOP/s.
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
    """Where the bytes come from that take most of a layer's time."""
    others = layer.bytes - layer.weight_bytes
    weights_from, weights_rate = bandwidth.of(reach)
    others_from, others_rate = bandwidth.of(layer.bytes)
    return weights_from if layer.weight_bytes / weights_rate > others / others_rate else others_from
