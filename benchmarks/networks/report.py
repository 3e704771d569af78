"""The results page and its plot, from a run of the suite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import product
from pathlib import Path

from edgec.benchmarks.networks.results import Measurement, Results

NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
FP32, INT8, TINY = "fp32", "int8", "tiny"
TINY_MS = 0.1  # networks that ONNX Runtime finishes sooner are a list of their own: there the call decides


def write_report(results: Results, folder: Path) -> list[Path]:
    """Write `benchmarks.md` and `images/benchmarks.svg` into `folder`; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, plot = folder / "benchmarks.md", folder / "images" / "benchmarks.svg"
    plot.parent.mkdir(exist_ok=True)
    plot.write_text(_plot(results), encoding="utf-8")
    page.write_text(_page(results), encoding="utf-8")
    return [page, plot]


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean; NaN of nothing."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def _page(results: Results) -> str:
    m = results.machine
    versions = ", ".join(f"{name} {v}" for name, v in m["versions"].items())
    peak = ", ".join(f"{v} GFLOP/s with {n} thread(s)" for n, v in m["fp32_peak_gflops"].items())
    lines = [
        "# Speed beside other runtimes",
        "",
        "Written by `make bench`; nothing here is edited by hand.",
        "",
        f"- Machine: {m['processor']}, {m['cores']} cores, {m['system']}; load average at the start {m['load']}",
        f"- Target `{m['target']}`; measured fp32 peak {peak}",
        f"- {versions}, Python {m['python']}; {m['date']}",
        f"- Kernels chosen with {_efforts(results)}",
        "- Batch 1, fp32, the same inputs and threads, sides in turns of 0.3 s in one process; medians of each of "
        "three processes, the middle one shown, lowest and highest ratio in brackets: above 1 edgec is faster. `error` "
        "is the largest difference from ONNX Runtime, relative to the largest value of the output.",
        "- First result (from the file to the first answer, imports of the runtime included), resident memory of the "
        "process after it, and size on disk stand as edgec / ONNX Runtime, each in a fresh process.",
        f"- Networks that ONNX Runtime finishes in under {TINY_MS} ms (tiny ones) are counted apart: there the call "
        "from Python decides. So are models that come with int8 products: those run in fp32 here so far.",
        *_left(m.get("left", [])),
        "",
        "## In short",
        "",
        *_summary(results),
        "",
        "![ratios](images/benchmarks.svg)",
    ]
    for group, title in (("zoo", "The zoo (random weights)"), ("real", "Trained models")):
        for threads in sorted({x.threads for x in results.measurements}):
            chosen = [x for x in results.measurements if (x.group, x.threads) == (group, threads)]
            if chosen:
                lines += [
                    "",
                    f"## {title}, {threads} thread{'s' if threads > 1 else ''}",
                    "",
                    *_table(chosen),
                ]
    return "\n".join(lines) + "\n"


def _left(names: Sequence[str]) -> list[str]:
    listed = ", ".join(names)
    return [f"- Not measured yet (threads in brackets; `--resume` goes on): {listed}"] if names else []


def _efforts(results: Results) -> str:
    """How the kernels of which share of the networks were chosen."""
    efforts = [x.tune or str(results.machine["tune"]) for x in results.measurements if not x.failure]
    counts = {effort: efforts.count(effort) for effort in sorted(set(efforts))}
    if len(counts) == 1:
        return f"`--tune {next(iter(counts))}`"
    return ", ".join(
        f"`--tune {effort}` ({count} of {len(efforts)} rows)" for effort, count in counts.items()
    )


def _summary(results: Results) -> list[str]:
    """Geometric means over each kind of network except tiny ones, and the slower networks, by threads and side."""
    lines = [
        "| threads | beside | networks | geometric mean | slower than it |",
        "|---:|---|---:|---:|---|",
    ]
    measured = [x for x in results.measurements if not x.failure]
    for threads, kind in product(sorted({x.threads for x in measured}), (FP32, INT8)):
        for side, name in NAMES.items():
            part = [x for x in measured if x.threads == threads and side in x.latency_ms and _kind(x) == kind]
            if part:
                slower = sorted((x.ratio(side)[0], x.network) for x in part if x.ratio(side)[0] < 1)
                listed = ", ".join(f"{network} {ratio:.2f}" for ratio, network in slower) or "none"
                mean = geometric_mean(x.ratio(side)[0] for x in part)
                lines.append(f"| {threads} | {name} | {len(part)} {kind} | **{mean:.2f}×** | {listed} |")
    return lines


def _table(chosen: Sequence[Measurement]) -> list[str]:
    measured = [x for x in chosen if not x.failure]
    sides = [s for s in NAMES if all(s in x.latency_ms for x in measured)]
    head = ["network", "edgec ms", *(f"{NAMES[s]} ms" for s in sides), *(f"× {NAMES[s]}" for s in sides)]
    head += ["error", "first result ms", "memory MB", "size MB", "compile s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|"]
    for x in chosen:
        lines.append(_row(x, sides, len(head)))
    for label, kind in (("geometric mean", FP32), ("int8 products", INT8), ("tiny ones", TINY)):
        part = [x for x in measured if _kind(x) == kind]
        if part:
            means = [f"**{geometric_mean(x.ratio(s)[0] for x in part):.2f}**" for s in sides]
            cells = [f"**{label}** ({len(part)})", "", *[""] * len(sides), *means]
            lines.append("| " + " | ".join(cells + [""] * (len(head) - len(cells))) + " |")
    return lines


def _kind(x: Measurement) -> str:
    """The kind of network under which a measurement counts."""
    if _middle(x.latency_ms["onnxruntime"]) < TINY_MS:
        return TINY
    return INT8 if x.quantised else FP32


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _row(x: Measurement, sides: Sequence[str], columns: int) -> str:
    if x.failure:
        return "| " + " | ".join([x.network, x.failure.replace("|", "/"), *[""] * (columns - 2)]) + " |"
    cells = [x.network, f"{_middle(x.latency_ms['edgec']):.3f}"]
    cells += [f"{_middle(x.latency_ms[s]):.3f}" for s in sides]
    for side in sides:
        middle, low, high = x.ratio(side)
        cells.append(f"{middle:.2f} ({low:.2f}–{high:.2f})")
    first = " / ".join(f"{x.first_ms[s]:.0f}" for s in ("edgec", "onnxruntime"))
    memory = " / ".join(f"{x.resident[s] / 1e6:.0f}" for s in ("edgec", "onnxruntime"))
    size = " / ".join(f"{x.size[s] / 1e6:.1f}" for s in ("edgec", "onnxruntime"))
    cells += [f"{x.error:.0e}", first, memory, size, f"{x.compile_s:.1f}"]
    return "| " + " | ".join(cells) + " |"


def _plot(results: Results) -> str:
    """Bars: how many times as fast as ONNX Runtime, a whisker from the lowest to the highest repeat."""
    measured = [x for x in results.measurements if not x.failure]
    width, bar, left = 900, 16, 300
    top = max([2.0, *[x.ratio("onnxruntime")[2] for x in measured]])
    scale = (width - left - 60) / top
    height = 40 + bar * len(measured)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="18" font-size="13">Speed in multiples of ONNX Runtime (line: 1×)</text>',
    ]
    for i, x in enumerate(measured):
        middle, low, high = x.ratio("onnxruntime")
        y = 30 + bar * i
        colour = "#2a7f62" if middle >= 1 else "#b5473c"
        parts.append(
            f'<text x="{left - 6}" y="{y + 11}" text-anchor="end">{escape(x.network)} ({x.threads})</text>'
            f'<rect x="{left}" y="{y + 2}" width="{middle * scale:.1f}" height="{bar - 5}" fill="{colour}"/>'
            f'<line x1="{left + low * scale:.1f}" x2="{left + high * scale:.1f}" y1="{y + 7}" y2="{y + 7}" '
            f'stroke="black"/><text x="{left + max(middle, high) * scale + 6:.1f}" y="{y + 11}">{middle:.2f}×</text>'
        )
    one = left + scale
    parts.append(
        f'<line x1="{one:.1f}" x2="{one:.1f}" y1="26" y2="{height - 6}" stroke="#666" stroke-dasharray="3,3"/>'
    )
    return "\n".join([*parts, "</svg>", ""])
