"""Profile a model: time its layers, and measure the machine beside them in the same process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from edgec.benchmarks.roofline.shares import (
    ENOUGH,
    UNDISTURBED,
    LayerShare,
    PeakSpread,
    counting_runs,
    footprint,
    in_gflops,
    in_gflops_factor,
    layer_share,
    peak_spread,
    seen_reach,
    undisturbed_runs,
)
from edgec.runtime.execution.profiling import LayerRuns, LayerTime, join, summarise
from edgec.runtime.model import Model
from edgec.targets.measured_rates import Bandwidth, Machine, best

if TYPE_CHECKING:  # a device has no compiler
    from edgec.compiler.progress import Progress
    from edgec.runtime.gpu.limits import Limits

GROUP_RUNS = 5  # runs between two measurements of the bandwidth, which sweep the caches
GROUP_S = 2.0  # and about how long these runs may take
RUNS_S = 0.2  # of runs without timers, of which the median counts
PEAKS = 10  # measurements of the highest fp32 rate between two groups of runs


@dataclass(frozen=True)
class Profile:
    """All layers of a model in the order of a run; `shares` is empty where the machine was not measured.

    `gpu` holds the limits that shares are of where the model runs on a GPU, which has neither `peak` nor `bandwidth`.
    """

    layers: tuple[LayerRuns, ...]
    times: tuple[LayerTime, ...]
    shares: tuple[LayerShare, ...] = ()
    peak: PeakSpread | None = None
    bandwidth: Bandwidth | None = None
    gpu: Limits | None = None

    @property
    def runs(self) -> int:
        """How many runs were timed."""
        return len(self.layers[0].seconds) if self.layers else 0

    @property
    def left_out(self) -> float:
        """Share of all layers' runs that did not count (0 to 1)."""
        return sum(share.left_out for share in self.shares) / max(1, self.runs * len(self.layers))

    @property
    def disturbed(self) -> int:
        """Number of layers with too few undisturbed runs."""
        return sum(not share.undisturbed for share in self.shares)

    def to_json(self) -> list[dict[str, Any]]:
        """One JSON-serialisable dict per layer."""
        rows = []
        for number, (layer, timed) in enumerate(zip(self.layers, self.times, strict=True)):
            row = asdict(timed) | {
                "schedule": layer.schedule, "bytes": layer.bytes, "weight_bytes": layer.weight_bytes,
            }  # fmt: skip
            rows.append(row | (asdict(self.shares[number]) if self.shares else {}))
        return rows


def run_ms(model: Model, inputs: Mapping[str, Any]) -> float:
    """The median time of a run without a timer around each layer."""
    model.run(inputs)
    seconds, begin = list[float](), time.perf_counter()
    while not seconds or time.perf_counter() - begin < RUNS_S:
        started = time.perf_counter()
        model.run(inputs)
        seconds.append(time.perf_counter() - started)
    return median(seconds) * 1e3


def profile_layers(
    model: Model,
    inputs: Mapping[str, Any],
    machine: Machine | None,
    *,
    runs: int,
    limit_s: float,
    progress: Progress,
) -> Profile:
    """Time a model's layers and measure the machine beside them.

    Args:
        model: the model to run.
        inputs: as for its `run`.
        machine: probes of the machine; None only measures times.
        runs: number of runs to time; more follow while too few are undisturbed.
        limit_s: seconds after which no further group of runs begins.
        progress: receives the progress.
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
    if model.gpu_limits is not None:
        from edgec.benchmarks.roofline.gpu import gpu_shares

        layers = tuple(series.layers())
        return Profile(
            layers, tuple(summarise(layers)), gpu_shares(layers, model.gpu_limits), gpu=model.gpu_limits
        )
    return series.judge(time.perf_counter() - begin)


@dataclass(frozen=True)
class _Series:
    """Groups of runs, with the highest rates measured between them, the loop's rates while waiting, and the bandwidth
    at each run (all empty where the machine is not measured).
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
        """Wait until the machine is undisturbed; False if that takes beyond `until`, a time of `perf_counter`."""
        factor = in_gflops_factor(join(self.groups), max(self.peaks), self.reach)
        while time.perf_counter() < until:
            self.waited.append(machine.speed())
            if self.waited[-1] * factor >= UNDISTURBED * max(self.peaks):
                return True
        return False

    def layers(self, watched_s: float = 0.0) -> list[LayerRuns]:
        """All runs, with the probes converted to the available fp32 rate in GFLOP/s."""
        layers, peak = join(self.groups), max(self.peaks, default=0.0)
        rates = [rate for layer in layers for pair in layer.probes for rate in pair] + self.waited
        return in_gflops(layers, peak, seen_reach(rates, peak, self.reach, watched_s))

    def enough(self) -> bool:
        """Whether every layer has enough undisturbed runs."""
        layers = self.layers()
        wanted = min(ENOUGH, len(layers[0].seconds)) if layers else 0
        return all(len(undisturbed_runs(layer, max(self.peaks))) >= wanted for layer in layers)

    def judge(self, watched_s: float) -> Profile:
        """Compute times and, where the machine was measured, shares over the runs that count, after measuring for
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
    """All layers of one kind together.

    Attributes:
        name: operator and schedule.
        layers: number of layers.
        ms: milliseconds per run.
        share: share of the run's time.
        peak_share: share of the peak, weighted by the layers' times; None without arithmetic.
    """

    name: str
    layers: int
    ms: float
    share: float
    peak_share: float | None


def by_kind(profile: Profile) -> list[Kind]:
    """Group layers by operator and kind of schedule (its first word), the slowest group first."""
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
