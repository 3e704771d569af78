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

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.runtime.execution.profiling import LayerRuns, LayerTime, Probe, join, summarise
from edgec.runtime.model import Model

if TYPE_CHECKING:  # a device has no compiler
    from edgec.compiler.progress import Progress

GROUP_RUNS = 5  # runs between two measurements of the bandwidth; these sweep the caches
GROUP_S = 2.0  # and about how long they may take
UNDISTURBED = 0.95  # the peak before and after a layer is at least this part of the highest
STEADY = 0.1  # the peak before and after a layer differs by less than this part of the larger
ENOUGH = 5  # runs that must be left for the others to be left out
HIGHEST = 98  # the percentile that is taken for the highest
PEAKS = 10  # measurements of the highest fp32 rate between two groups of runs
MOVED = 1.1  # the machine is unsteady when the highest peak is this many times the lowest
WATCHED_S = 10.0  # a loop that is slow and steady for so long is not disturbed but a smaller core's


@dataclass(frozen=True)
class Bandwidth:
    """Read rates in billions of bytes a second, of data that fit into the second cache, into the third (None
    without one) and into neither; and these caches' sizes in bytes, for all threads together.
    """

    l2_bytes: int
    l3_bytes: int
    l2: float
    l3: float | None
    memory: float

    def mean(self, other: Bandwidth) -> Bandwidth:
        """The rates between two measurements."""
        l3 = None if self.l3 is None or other.l3 is None else (self.l3 + other.l3) / 2
        l2, memory = (self.l2 + other.l2) / 2, (self.memory + other.memory) / 2
        return Bandwidth(self.l2_bytes, self.l3_bytes, l2, l3, memory)

    def of(self, reach: int) -> tuple[str, float]:
        """Where data come from if `reach` bytes were touched since they were last, and the rate from there."""
        if reach <= self.l2_bytes:
            return "L2", self.l2
        if self.l3 is not None and reach <= self.l3_bytes // 2:  # other cores and machines use it, too
            return "L3", self.l3
        return "memory", self.memory


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


def best(bandwidths: Sequence[Bandwidth]) -> Bandwidth:
    """The highest rate of each kind."""
    l3 = [each.l3 for each in bandwidths if each.l3 is not None]
    return replace(
        bandwidths[0],
        l2=max(each.l2 for each in bandwidths),
        l3=max(l3, default=None),
        memory=max(each.memory for each in bandwidths),
    )


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


@dataclass(frozen=True)
class Machine:
    """How to measure this machine: how fast a convolution's inner loop is at the moment, leaving the caches alone, and
    the highest fp32 rate, both in GFLOP/s; and its bandwidth. `reach` is the part of the peak that the loop is known
    to reach undisturbed (0: not known; the fastest that is seen must be taken for undisturbed), see `seen_reach`.
    """

    speed: Probe
    peak: Probe
    bandwidth: Callable[[], Bandwidth]
    reach: float = 0.0


@dataclass(frozen=True)
class Profile:
    """All layers of a model, in the order of a run; `shares` is empty where the machine was not measured."""

    layers: tuple[LayerRuns, ...]
    times: tuple[LayerTime, ...]
    shares: tuple[LayerShare, ...] = ()
    peak: PeakSpread | None = None
    bandwidth: Bandwidth | None = None

    @property
    def runs(self) -> int:
        """How many runs were timed."""
        return len(self.layers[0].seconds) if self.layers else 0

    @property
    def left_out(self) -> float:
        """The part of all layers' runs that did not count (0 to 1)."""
        return sum(share.left_out for share in self.shares) / max(1, self.runs * len(self.layers))

    @property
    def disturbed(self) -> int:
        """How many layers had too few runs with the machine at its highest rate."""
        return sum(not share.undisturbed for share in self.shares)

    def to_json(self) -> list[dict[str, Any]]:
        """A layer each, with JSON-serialisable values."""
        rows = []
        for number, (layer, timed) in enumerate(zip(self.layers, self.times, strict=True)):
            row = asdict(timed) | {
                "schedule": layer.schedule, "bytes": layer.bytes, "weight_bytes": layer.weight_bytes,
            }  # fmt: skip
            rows.append(row | (asdict(self.shares[number]) if self.shares else {}))
        return rows


def profile_layers(
    model: Model,
    inputs: Mapping[str, Any],
    machine: Machine | None,
    *,
    runs: int,
    limit_s: float,
    progress: Progress,
) -> Profile:
    """Time a model's layers, with the machine measured beside them.

    Args:
        model: what to run.
        inputs: as its `run` takes them.
        machine: how to measure the machine; None only takes times.
        runs: how many runs to time; more follow while there are too few undisturbed ones.
        limit_s: seconds after which no further group of runs begins.
        progress: told how far it is.
    """
    begin = time.perf_counter()
    model.run(inputs)
    warm = time.perf_counter()
    model.run(inputs)
    group = max(1, min(GROUP_RUNS, int(GROUP_S / (time.perf_counter() - warm))))
    series = _Series([], [], [], [], 0.0 if machine is None else machine.reach)
    last = None if machine is None else series.look(machine)
    progress.stage("profile", runs)
    done, waiting = 0, False
    while not done or time.perf_counter() - begin < limit_s:
        if done >= runs:
            if machine is None or series.enough():
                break
            if not waiting:
                progress.stage("undisturbed")
                waiting = True
            if not series.wait(machine, begin + limit_s):
                break
        count = group if waiting else min(group, runs - done)
        timed = model.profile_runs(inputs, count, None if machine is None else machine.speed)
        series.groups.append(timed)
        if machine is not None and last is not None:
            now = series.look(machine)
            series.bandwidths.extend([last.mean(now)] * count)
            last = now
        done += count
        progress.advance(count)
    return series.judge(time.perf_counter() - begin)


@dataclass(frozen=True)
class _Series:
    """Groups of runs; the highest rates measured between them, the loop's while waiting, and the bandwidth around each
    run (none of these where the machine is not measured).
    """

    groups: list[list[LayerRuns]]
    peaks: list[float]
    waited: list[float]
    bandwidths: list[Bandwidth]
    reach: float

    def look(self, machine: Machine) -> Bandwidth:
        """Measure the machine between two groups."""
        self.peaks.extend(machine.peak() for _ in range(PEAKS))
        return machine.bandwidth()

    def wait(self, machine: Machine, until: float) -> bool:
        """Return when the machine is undisturbed, or at a time of the clock `perf_counter`: whether it is before."""
        factor = in_gflops_factor(join(self.groups), max(self.peaks), self.reach)
        while time.perf_counter() < until:
            self.waited.append(machine.speed())
            if self.waited[-1] * factor >= UNDISTURBED * max(self.peaks):
                return True
        return False

    def layers(self, watched_s: float = 0.0) -> list[LayerRuns]:
        """All runs, with the probes in GFLOP/s of the peak that was to be had."""
        layers, peak = join(self.groups), max(self.peaks, default=0.0)
        rates = [rate for layer in layers for pair in layer.probes for rate in pair] + self.waited
        return in_gflops(layers, peak, seen_reach(rates, peak, self.reach, watched_s))

    def enough(self) -> bool:
        """Whether every layer has runs enough in which the machine was at its highest rate."""
        layers = self.layers()
        wanted = min(ENOUGH, len(layers[0].seconds)) if layers else 0
        return all(len(undisturbed_runs(layer, max(self.peaks))) >= wanted for layer in layers)

    def judge(self, watched_s: float) -> Profile:
        """Times and, where the machine was measured, shares; both of the runs that count. The measuring took
        `watched_s` seconds.
        """
        layers = tuple(self.layers(watched_s))
        if not self.bandwidths or not layers:
            return Profile(layers, tuple(summarise(layers)))
        reach, peak = footprint(layers), max(self.peaks)
        shares = tuple(layer_share(layer, self.bandwidths, reach, peak) for layer in layers)
        counted = [
            replace(layer, seconds=tuple(layer.seconds[k] for k in counting_runs(layer, peak)))
            for layer in layers
        ]
        spread = peak_spread(layers, peak)
        return Profile(layers, tuple(summarise(counted)), shares, spread, best(self.bandwidths))


@dataclass(frozen=True)
class Kind:
    """All layers of one kind together: milliseconds a run, the part of the run's time, and (None without
    arithmetic) the part of the peak, layers weighted by their time.
    """

    name: str
    layers: int
    ms: float
    share: float
    peak_share: float | None


def by_kind(profile: Profile) -> list[Kind]:
    """Layers by operator and way to compute it (the schedule's first word), the slowest kind first."""
    members: dict[str, list[int]] = {}
    for number, layer in enumerate(profile.layers):
        words = [layer.op or layer.kernel, *layer.schedule.split(" ")[:1]]
        members.setdefault(" ".join(dict.fromkeys(word for word in words if word)), []).append(number)
    kinds = []
    for name, numbers in members.items():
        ms = sum(profile.times[k].ms for k in numbers)
        known = [
            (profile.times[k].ms, share)
            for k in numbers
            if profile.shares and (share := profile.shares[k].peak_share) is not None
        ]
        weight = sum(weighed for weighed, _ in known)
        peak = sum(weighed * share for weighed, share in known) / weight if weight else None
        kinds.append(Kind(name, len(numbers), ms, sum(profile.times[k].share for k in numbers), peak))
    return sorted(kinds, key=lambda kind: -kind.ms)
