"""Plot a profile: where the time of a run goes, how close each layer is to the machine's limits, and which."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from edgec.benchmarks.roofline.profile import Profile

WIDTH, LEFT = 1100, 64
SKYLINE = (70, 270)  # top and height of the upper panel
ROOFS = (420, 350)  # of the lower ones
ROOFS_WIDTH = 440
NAMED = 10  # labelled kernels: those that lose the most time
COLOURS = {"compute": "#2b6cb0", "L2": "#c9a227", "L3": "#d9822b", "memory": "#b5473c"}
BINDS = {"compute": "arithmetic", "L2": "second cache", "L3": "third cache", "memory": "memory"}


@dataclass(frozen=True)
class _Bar:
    """One layer: `begin` and `ms` in the run, shares (1 is the machine's best), and the rate of an undisturbed machine
    that goes with its share of the peak.
    """

    kernel: str
    name: str
    begin: float
    ms: float
    peak_share: float
    memory_share: float
    bound: str
    gflops: float
    intensity: float
    schedule: str

    @property
    def reached(self) -> float:
        """Share of the machine's limit that the layer reaches."""
        return max(self.peak_share, self.memory_share)

    @property
    def lost_ms(self) -> float:
        """Milliseconds beyond the time at the machine's limit."""
        return self.ms * max(0.0, 1 - self.reached)


def write_plot(profile: Profile, title: str, threads: int, path: Path) -> None:
    """Draw a measured profile as an SVG picture.

    Above, layers stand side by side in the order of a run, as wide as they take time and as high as their share of the
    peak: white area is lost time. Below, the same layers as dots under the machine's roofs, and the names of those that
    lose the most.

    Raises:
        OSError: the file cannot be written.
    """
    bars = _bars(profile)
    named = _worst(bars)
    numbers = {bar: str(number) for number, alike in enumerate(named, 1) for bar in alike}
    height = sum(ROOFS) + 60
    total = sum(bar.ms for bar in bars)
    peak = profile.peak.high if profile.peak else 0.0
    disturbed = f"; {profile.disturbed} layers on a busy machine" if profile.disturbed else ""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(LEFT, 26, f"{title}: {total:.3f} ms in {len(bars)} layers", size=16),
        _text(
            LEFT, 46,
            f"share of this machine's {peak:.0f} GFLOP/s (fp32, {threads} thread{'s' if threads > 1 else ''}"
            f"{disturbed}), layers as wide as they take time; white is lost",
        ),
        *_legend(),
        *_skyline(bars, numbers),
        *_roofs(profile, bars, numbers),
        *_list(named),
    ]  # fmt: skip
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")
    temporary.replace(path)


def _bars(profile: Profile) -> list[_Bar]:
    begin, bars = 0.0, []
    peak = profile.peak.high if profile.peak else 0.0
    for layer, timed, share in zip(profile.layers, profile.times, profile.shares, strict=True):
        name = ", ".join(layer.nodes) or layer.kernel
        bars.append(
            _Bar(
                layer.kernel, name, begin, timed.ms, share.peak_share or 0.0, share.memory_share, share.bound,
                (share.peak_share or 0.0) * peak, layer.flops / max(1, layer.bytes),
                " ".join(dict.fromkeys([layer.op, *layer.schedule.split(" ")])),
            )
        )  # fmt: skip
        begin += timed.ms
    return bars


def _worst(bars: Sequence[_Bar]) -> list[list[_Bar]]:
    """The layers of each kernel that loses time, the worst kernel first."""
    kernels: dict[str, list[_Bar]] = {}
    for bar in bars:
        kernels.setdefault(bar.kernel, []).append(bar)
    losing = [alike for alike in kernels.values() if _lost(alike) > 0]
    return sorted(losing, key=lambda alike: -_lost(alike))[:NAMED]


def _lost(bars: Sequence[_Bar]) -> float:
    return sum(bar.lost_ms for bar in bars)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#222"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'


def _legend() -> list[str]:
    parts, x = [], WIDTH - 470
    for bound, colour in COLOURS.items():
        parts.append(f'<rect x="{x}" y="16" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(x + 17, 26, BINDS[bound]))
        x += 115
    return [_text(WIDTH - 480, 26, "bound by", anchor="end"), *parts]


def _hover(bar: _Bar) -> str:
    told = (
        f"{bar.name}\n{bar.schedule}\n{bar.ms:.3f} ms, {bar.gflops:.1f} GFLOP/s, {bar.peak_share:.0%} of the peak, "
        f"{bar.memory_share:.0%} of the time for its bytes"
    )
    return f"<title>{escape(told)}</title>"


def _skyline(bars: Sequence[_Bar], numbers: dict[_Bar, str]) -> list[str]:
    top, height = SKYLINE
    bottom = top + height
    wide = (WIDTH - LEFT - 24) / (sum(bar.ms for bar in bars) or 1.0)
    best = max([1.0, *(bar.peak_share for bar in bars)]) * 1.04
    parts = []
    for percent in range(0, int(best * 100) + 1, 25):
        y = bottom - height * percent / 100 / best
        parts.append(_line(LEFT, y, WIDTH - 24, y, "#444" if percent == 100 else "#ddd"))
        parts.append(_text(LEFT - 8, y + 4, f"{percent} %", anchor="end"))
    for bar in bars:
        x, w = LEFT + bar.begin * wide, max(bar.ms * wide - 0.6, 0.4)
        parts.append(f"<g>{_hover(bar)}")
        parts.append(
            f'<rect x="{x:.1f}" y="{top}" width="{w:.1f}" height="{height}" fill="white" opacity="0"/>'
        )
        for share, opacity in ((min(bar.memory_share, best), 0.28), (bar.peak_share, 1.0)):
            if opacity == 1.0 or bar.bound != "compute":
                h = height * share / best
                parts.append(
                    f'<rect x="{x:.1f}" y="{bottom - h:.1f}" width="{w:.1f}" height="{h:.1f}" '
                    f'fill="{COLOURS[bar.bound]}" opacity="{opacity}"/>'
                )
        parts.append("</g>")
        if bar in numbers and w > 7:
            y = bottom - height * min(max(bar.reached, 0.05), best) / best - 5
            parts.append(_text(x + w / 2, y, numbers[bar], anchor="middle"))
    told = (
        "layers in the order of a run; a pale bar is the share of a layer's time that moving its bytes takes"
    )
    if any(bar.peak_share > 1 for bar in bars):
        told += "; above 100 %: Winograd convolution, which multiplies less than the operations counted"
    return [*parts, _text(LEFT, bottom + 20, told, colour="#555")]


@dataclass(frozen=True)
class _Axes:
    """Both logarithmic: operations a byte from left to right, GFLOP/s from bottom to top; ends as powers of ten."""

    left: float
    right: float
    bottom: float
    top: float

    @staticmethod
    def around(bars: Sequence[_Bar], peak: float) -> _Axes:
        """Axes that cover the layers with at least one percent of the time; others are drawn at the edge."""
        total = sum(bar.ms for bar in bars)
        seen = [bar for bar in bars if bar.ms >= 0.01 * total and bar.gflops > 0] or bars
        places = [max(bar.intensity, 1e-3) for bar in seen]
        rates = [max(bar.gflops, 1e-3) for bar in seen]
        return _Axes(
            math.log10(min(places) / 2), math.log10(max(places) * 2),
            math.log10(min([*rates, peak / 4]) / 2), math.log10(max([*rates, peak]) * 1.3),
        )  # fmt: skip

    def x(self, intensity: float) -> float:
        """Horizontal position of an arithmetic intensity."""
        place = (math.log10(max(intensity, 1e-9)) - self.left) / (self.right - self.left)
        return LEFT + ROOFS_WIDTH * min(1.0, max(0.0, place))

    def y(self, rate: float) -> float:
        """Vertical position of a rate in GFLOP/s."""
        place = (math.log10(max(rate, 1e-9)) - self.bottom) / (self.top - self.bottom)
        return ROOFS[0] + ROOFS[1] * (1 - min(1.0, max(0.0, place)))

    def grid(self) -> list[str]:
        """Lines with their numbers at 1, 2 and 5 times the powers of ten."""
        parts = []
        steps = [digit * 10.0**power for power in range(-4, 6) for digit in (1, 2, 5)]
        for step in steps:
            if self.left <= math.log10(step) <= self.right:
                parts.append(_line(self.x(step), ROOFS[0], self.x(step), sum(ROOFS), "#eee"))
                parts.append(_text(self.x(step), sum(ROOFS) + 16, f"{step:g}", anchor="middle"))
            if self.bottom <= math.log10(step) <= self.top:
                parts.append(_line(LEFT, self.y(step), LEFT + ROOFS_WIDTH, self.y(step), "#eee"))
                parts.append(_text(LEFT - 8, self.y(step) + 4, f"{step:g}", anchor="end"))
        return parts

    def slope(self, name: str, rate: float, peak: float) -> list[str]:
        """The roof of a bandwidth in GB/s, up to the peak."""
        begin = max(10**self.left, 10**self.bottom / rate)
        end = min(peak / rate, 10**self.right)
        if begin >= end:
            return []
        x, y = self.x(begin), self.y(begin * rate)
        return [
            _line(x, y, self.x(end), self.y(end * rate), COLOURS[name]),
            _text(x + 12, y + 4, f"{name} {rate:.0f} GB/s", colour=COLOURS[name]),
        ]


def _roofs(profile: Profile, bars: Sequence[_Bar], numbers: dict[_Bar, str]) -> list[str]:
    """Rate over arithmetic intensity, under the roofs of arithmetic and of each bandwidth."""
    if profile.peak is None or profile.bandwidth is None or not bars:
        return []
    peak, rates = profile.peak.high, profile.bandwidth
    axes = _Axes.around(bars, peak)
    title = "GFLOP/s over operations a byte; dots as large as they take time"
    parts = [_text(LEFT, ROOFS[0] - 14, title, size=13), *axes.grid()]
    for name, rate in (("L2", rates.l2), ("L3", rates.l3), ("memory", rates.memory)):
        parts += [] if rate is None else axes.slope(name, rate, peak)
    parts.append(_line(axes.x(peak / rates.l2), axes.y(peak), LEFT + ROOFS_WIDTH, axes.y(peak), "#444"))
    longest = max(bar.ms for bar in bars) or 1.0
    dots = sorted((bar for bar in bars if bar.gflops > 0), key=lambda bar: -bar.ms)
    for bar in dots:
        radius = 2 + 9 * math.sqrt(bar.ms / longest)
        parts.append(
            f'<circle cx="{axes.x(bar.intensity):.1f}" cy="{axes.y(bar.gflops):.1f}" r="{radius:.1f}" '
            f'fill="{COLOURS[bar.bound]}" opacity="0.5" stroke="white">{_hover(bar)}</circle>'
        )
    firsts = {numbers[bar]: bar for bar in reversed(dots) if bar in numbers}
    for number, bar in firsts.items():
        parts.append(_text(axes.x(bar.intensity), axes.y(bar.gflops) + 4, number, anchor="middle", size=11))
    return parts


def _list(named: Sequence[Sequence[_Bar]]) -> list[str]:
    """The kernels that lose the most time."""
    x, y = LEFT + ROOFS_WIDTH + 60, ROOFS[0]
    lost = sum(map(_lost, named))
    count = sum(map(len, named))
    parts = [_text(x, y - 14, f"where the most time is lost: {lost:.3f} ms in {count} layers", size=13)]
    for number, alike in enumerate(named, 1):
        bar, ms = alike[0], sum(each.ms for each in alike)
        name = bar.name if len(bar.name) <= 54 else bar.name[:53] + "…"
        if len(alike) > 1:
            name += f" and {len(alike) - 1} more"
        parts.append(_text(x + 16, y + 6, str(number), anchor="end", size=13, colour=COLOURS[bar.bound]))
        parts.append(_text(x + 26, y + 6, name))
        roof = f"{_mean(alike, [each.peak_share for each in alike]):.0%} of the peak"
        if bar.bound != "compute":
            roof += f", {_mean(alike, [each.memory_share for each in alike]):.0%} of {bar.bound}"
        told = f"{ms:.3f} ms, loses {_lost(alike):.3f}; {roof}; {bar.schedule}"
        parts.append(_text(x + 26, y + 20, told, size=11, colour="#555"))
        y += 36
    return parts


def _mean(bars: Sequence[_Bar], values: Sequence[float]) -> float:
    """The mean of the layers' values, weighted by their time."""
    total = sum(bar.ms for bar in bars) or 1.0
    return sum(bar.ms * value for bar, value in zip(bars, values, strict=True)) / total
