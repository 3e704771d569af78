"""The results pages, one for each processor, with a page that lists them; from runs of the suite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import product
from pathlib import Path
from typing import Any

from edgec.benchmarks.machine import code_digest
from edgec.benchmarks.networks.catalogue import GROUPS, INT8, LITERT, REAL, STRANGER, ZOO
from edgec.benchmarks.networks.results import Measurement, Results
from edgec.benchmarks.networks.state import EXCHANGE, PEAK, TRIES

NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "litert": "LiteRT"}
TITLES = {
    STRANGER: "Strangers: models in wheels that nobody tuned for",
    REAL: "Trained models of the data folder",
    ZOO: "The zoo (random weights)",
    INT8: "The zoo in int8, quantised by ONNX Runtime's static flow: the same file for all",
    LITERT: "TensorFlow Lite models in int8 beside LiteRT",
}
FP32, QUANTISED, TINY = "fp32", "int8", "tiny"
TINY_MS = 0.1  # networks that the other side finishes sooner are a list of their own: there the call decides
FURTHEST = 10
LIMIT = "at the limit"
INTRODUCTION = """\
Written by `make bench`; nothing here is edited by hand. Each processor on which the suite was measured has a page of
its own. The suite has *strangers* (models that come in wheels, for which nobody here tuned), the models of a data
folder where there is one (`EDGEC_DATA`), the zoo, and models in int8. Figures are geometric means of how many times
as fast as the other runtime edgec is, with the number of models, over models in fp32 that take the other more than
0.1 ms."""
BLOCKS = (
    "sides in turns of 0.3 s in one process, the first 60 ms of each not counted: the other's threads sleep"
)
PAGES = "benchmarks"  # folder of the pages, in that of the documentation


def results_file(folder: Path, name: str) -> Path:
    """Where the results of a processor are kept."""
    return folder / PAGES / f"{name}.json"


def write_report(results: Results, folder: Path, name: str) -> list[Path]:
    """Write the page and the plot of a processor, and anew the pages of others, which may be of older code by now.

    Args:
        results: of the processor.
        folder: of the documentation.
        name: of the page, see `edgec.benchmarks.machine.page_name`.

    Returns:
        the page that lists all pages, the processor's page, and its plot.
    """
    (folder / PAGES).mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    every = {file.stem: Results.load(file) for file in sorted((folder / PAGES).glob("*.json"))} | {
        name: results
    }
    for one, found in every.items():
        (folder / PAGES / f"{one}.md").write_text(_page(found, one), encoding="utf-8")
    page, plot = folder / PAGES / f"{name}.md", folder / "images" / f"benchmarks-{name}.svg"
    plot.write_text(_plot(results), encoding="utf-8")
    index = folder / "benchmarks.md"
    index.write_text(_index(every), encoding="utf-8")
    return [index, page, plot]


def _index(every: dict[str, Results]) -> str:
    lines = [
        "# Speed beside other runtimes",
        "",
        *INTRODUCTION.splitlines(),
        "",
        "| processor | threads | strangers × ONNX Runtime | × OpenVINO | × LiteRT | all × ONNX Runtime | × OpenVINO "
        "| measured | code |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, results in sorted(every.items(), key=lambda one: _older(one[1].machine)):
        machine = results.machine
        code = "older" if _older(machine) else "current"
        for threads in sorted({x.threads for x in results.measurements}):
            means = [
                _mean([x for x in results.measurements if x.threads == threads and x.group in groups], side)
                for groups, side in product(((STRANGER,), (STRANGER, REAL, ZOO)), NAMES)
                if side != "litert" or groups == (STRANGER,)
            ]
            link = f"[{_processor(machine)}]({PAGES}/{name}.md)"
            lines.append(f"| {link} | {threads} | {' | '.join(means)} | {machine['date']} | {code} |")
    return "\n".join(lines) + "\n"


def _mean(part: Sequence[Measurement], side: str, kind: str = FP32) -> str:
    """The geometric mean over models of a kind, with their number."""
    ratios = [x.ratio(side)[0] for x in part if not x.failure and side in x.latency_ms and _kind(x) == kind]
    return f"{geometric_mean(ratios):.2f} ({len(ratios)})" if ratios else "–"


def _older(machine: dict[str, Any]) -> bool:
    return bool(machine.get("code") != code_digest())


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean; NaN of nothing."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def _page(results: Results, name: str) -> str:
    m = results.machine
    versions = ", ".join(f"{package} {v}" for package, v in m["versions"].items())
    lines = [
        f"# Speed beside other runtimes: {_processor(m)}",
        "",
        f"[All processors](../{PAGES}.md). Written by `make bench`.",
        "",
    ]
    if _older(m):
        lines += [f"**Measured on {m['date']} with older code than this page stands beside.**", ""]
    lines += [
        f"- Machine: {m['processor']}, {m['cores']} cores, {m['system']}; load average at the start {m['load']}",
        *_restriction(results),
        f"- Target `{m['target']}`; {_limits(m)}",
        f"- {versions}, Python {m['python']}; {m['date']}",
        f"- Kernels chosen with {_efforts(results)}",
        f"- Batch 1, the same inputs and threads; {BLOCKS if 'rates' in m else 'sides in turns in one process'}; "
        "medians of each of some processes, the middle one shown, lowest and highest ratio in brackets: above 1 edgec "
        "is faster. `error` is the largest difference from the first of the other runtimes, relative to the largest "
        "value of the output.",
        "- First result (from the file to the first answer, imports of the runtime included), resident memory of the "
        "process after it, and size on disk stand as edgec / the other, each in a fresh process. Compile time "
        "is without "
        "verification; in brackets the seconds of all cores together, which do not depend on what else runs.",
        "- TensorFlow Lite models reach ONNX Runtime in the ONNX form that edgec's front end gives them; LiteRT "
        "and OpenVINO "
        "read the originals, and are what to compare with there.",
        *_limit_told(results),
        f"- Networks that the other side finishes in under {TINY_MS} ms (tiny ones) are counted apart: there "
        f"the call from "
        "Python decides. So are models that come with int8 products.",
        *_disturbed(results),
        *_left(m.get("left", [])),
        *m.get("remarks", []),
        "",
        "## In short",
        "",
        *_summary(results),
        "",
        f"![ratios](../images/benchmarks-{name}.svg)",
    ]
    counts = sorted({x.threads for x in results.measurements})
    for group, threads in product(GROUPS, counts):
        chosen = [x for x in results.measurements if (x.group, x.threads) == (group, threads)]
        if chosen:
            title = f"## {TITLES[group]}, {threads} thread{'s' if threads > 1 else ''}"
            lines += ["", title, "", *_table(chosen)]
    return "\n".join([*lines, *_furthest(results), *_estimates(m)]) + "\n"


def _processor(machine: dict[str, Any]) -> str:
    """The processor, and what its runtimes were restricted to."""
    restricted = machine.get("restricted")
    return f"{machine['processor']} restricted to {restricted}" if restricted else str(machine["processor"])


def _restriction(results: Results) -> list[str]:
    """What a restricted processor is, and the proof that the other runtimes kept to it."""
    restricted = results.machine.get("restricted")
    if not restricted:
        return []
    counts = [pair for x in results.measurements for pair in x.sampled.values()]
    total, beyond = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    return [
        f"- **No processor of its own**: a {results.machine['family']} on which all sides use {restricted} and nothing "
        "beyond it. edgec compiles for the target below; the other runtimes are copies whose `cpuid` instructions are "
        f"answered without AVX-512, VNNI and AMX (`benchmarks/restricted/`). Of {total} interruptions of all sides "
        f"while they ran, {beyond} were at an instruction of AVX-512. Clock, caches and memory are the machine's.",
    ]


def _disturbed(results: Results) -> list[str]:
    """Which rows were measured while the machine was slower than it can be, as a hypervisor makes it for a while."""
    judged = [x for x in results.measurements if x.speed_shares]
    if not judged:
        return []
    slow = [
        f"{x.network} ({x.threads}, {min(x.speed_shares):.0%})" for x in judged if min(x.speed_shares) < 1
    ]
    return [
        "- Before and after each process, the machine's arithmetic and the exchange between its cores were compared "
        f"with the fastest seen; a process at which they were below {PEAK:.0%} and {EXCHANGE:.0%} was repeated, up to "
        f"{TRIES} times. Disturbed nevertheless (threads, share of what would be enough): {', '.join(slow) or 'none'}",
    ]


def _limit_told(results: Results) -> list[str]:
    """What the column of limits holds, where there is one."""
    if not any(x.floor_ms for x in results.measurements):
        return []
    return [
        f"- `{LIMIT}`: the milliseconds that all layers would take at the machine's limits, and how many times as fast "
        "as each of the others that would be. Multiply-adds and bytes are counted, not the arithmetic of activations "
        "(an `erf` or a sigmoid takes some 10 cycles a vector), nor what threads wait for each other.",
    ]


def _limits(m: dict[str, Any]) -> str:
    """What the machine can do, as measured."""
    rates = m.get("rates")
    if rates is None:
        peaks = m.get("fp32_peak_gflops", {})
        return "measured fp32 peak " + ", ".join(f"{v} GFLOP/s with {n} thread(s)" for n, v in peaks.items())
    peak = ", ".join(f"{kind} {pair[0]:.0f} and {pair[1]:.0f} G op/s" for kind, pair in rates["gops"].items())
    levels = ", ".join(
        f"{level['name']} {level['gbytes'][0]:.0f} and {level['gbytes'][1]:.0f} GB/s ({level['latency_ns']:.1f} ns)"
        for level in rates["levels"]
    )
    return f"measured on one thread and on {rates['threads']}: {peak}; {levels}; {rates['ghz']:.2f} GHz"


def _furthest(results: Results) -> list[str]:
    """The layers that lose most beside what the machine can do, over all models in fp32."""
    found = [
        (layer["ms"] - layer["floor_ms"], x, layer)
        for x in results.measurements
        if not x.failure and not x.quantised
        for layer in x.layers
        if layer["floor_ms"] is not None and layer["ms"] > 0
    ]
    if not found:
        return []
    lines = [
        "", f"## The {FURTHEST} layers furthest from what the machine can do", "",
        "By the time lost, over all models in fp32: the limit is the larger of the operations at the measured "
        "peak and the bytes",
        "from the level of memory that holds all arrays of a run.", "",
        "| model | threads | layer | operator | choice | ms | at the limit | bound by | reaches |",
        "|---|---:|---|---|---|---:|---:|---|---:|",
    ]  # fmt: skip
    for _, x, layer in sorted(found, key=lambda one: -one[0])[:FURTHEST]:
        nodes = ", ".join(layer["nodes"][:2])[:60].replace("|", "/") or "(transform)"
        reach = layer["floor_ms"] / layer["ms"]
        lines.append(
            f"| {x.network} | {x.threads} | {nodes} | {layer['op']} | {layer['choice']} | {layer['ms']:.3f} "
            f"| {layer['floor_ms']:.3f} | {layer['bound']} | {reach:.0%} |"
        )
    return lines


def _estimates(machine: dict[str, Any]) -> list[str]:
    """How well the order of candidates agrees with measurements of this processor's family, if there are any."""
    from edgec.benchmarks.estimates.agreement import agreement_on

    # Code restricted to fewer instructions has other candidates than were timed on the family.
    found = None if machine.get("restricted") else agreement_on(str(machine.get("family", "")))
    if found is None:
        return []
    return [
        "", "## Estimates beside measurements", "",
        f"Without timing, the first candidate of a kernel by an estimate is taken. Of {found.workloads} "
        f"workloads of which candidates from first to last were timed on this family, the rank correlation "
        f"(Spearman) of estimates and times is "
        f"**{found.correlation:.2f}** on average; the candidate taken is {found.loss:.0%} slower than the fastest "
        f"(the best of the first three {found.loss_of_three:.0%}). Most candidates are as good as each other: of "
        f"{found.pairs} pairs {found.apart} differ by more than 5 %, and of these the estimate orders "
        f"**{found.right:.0%}** rightly.",
    ]  # fmt: skip


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
    for threads, kind in product(sorted({x.threads for x in measured}), (FP32, QUANTISED)):
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
    sides = [s for s in NAMES if any(s in x.latency_ms for x in measured)]
    head = ["network", "edgec ms", *(f"{NAMES[s]} ms" for s in sides), *(f"× {NAMES[s]}" for s in sides)]
    limited = any(x.floor_ms for x in measured)
    head += [LIMIT] if limited else []
    head += ["error", "first result ms", "memory MB", "size MB", "compile s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|"]
    for x in chosen:
        lines.append(_row(x, sides, len(head), limited))
    for label, kind in (("geometric mean", FP32), ("int8 products", QUANTISED), ("tiny ones", TINY)):
        part = [x for x in measured if _kind(x) == kind]
        if part:
            means = [f"**{_mean(part, s, kind)}**" for s in sides]
            cells = [f"**{label}** ({len(part)})", "", *[""] * len(sides), *means]
            cells += [_mean_at_limit(part, sides)] if limited else []
            lines.append("| " + " | ".join(cells + [""] * (len(head) - len(cells))) + " |")
    return lines


def _at_limit(x: Measurement, sides: Sequence[str]) -> str:
    """Milliseconds at the machine's limits, and how many times as fast as each side that would be."""
    if not x.floor_ms:
        return ""
    ratios = [f"{x.at_limit(side):.2f}" if side in x.latency_ms else "–" for side in sides]
    return f"{x.floor_ms:.3f}: {' / '.join(ratios)}"


def _mean_at_limit(part: Sequence[Measurement], sides: Sequence[str]) -> str:
    """Geometric means of the same, over the networks for which the limits are known."""
    means = [
        geometric_mean(x.at_limit(side) for x in part if x.floor_ms and side in x.latency_ms)
        for side in sides
    ]
    return " / ".join("–" if math.isnan(mean) else f"{mean:.2f}" for mean in means)


def _kind(x: Measurement) -> str:
    """The kind of network under which a measurement counts."""
    if _middle(x.latency_ms[_other(x)]) < TINY_MS:
        return TINY
    return QUANTISED if x.quantised or x.group == LITERT else FP32


def _other(x: Measurement) -> str:
    """The first of the other runtimes."""
    return next(side for side in NAMES if side in x.latency_ms)


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _row(x: Measurement, sides: Sequence[str], columns: int, limited: bool) -> str:
    if x.failure:
        return "| " + " | ".join([x.network, x.failure.replace("|", "/"), *[""] * (columns - 2)]) + " |"
    cells = [x.network, f"{_middle(x.latency_ms['edgec']):.3f}"]
    cells += [f"{_middle(x.latency_ms[s]):.3f}" if s in x.latency_ms else "" for s in sides]
    for side in sides:
        middle, low, high = x.ratio(side) if side in x.latency_ms else (0.0, 0.0, 0.0)
        spread = f" ({low:.2f}–{high:.2f})" if len(x.latency_ms["edgec"]) > 1 else ""
        cells.append(f"{middle:.2f}{spread}" if middle else "")
    cells += [_at_limit(x, sides)] if limited else []
    first = " / ".join(f"{x.first_ms[s]:.0f}" for s in ("edgec", _other(x)))
    memory = " / ".join(f"{x.resident[s] / 1e6:.0f}" for s in ("edgec", _other(x)))
    size = " / ".join(f"{x.size[s] / 1e6:.1f}" for s in ("edgec", _other(x)))
    cells += [
        f"{x.error:.0e}",
        first,
        memory,
        size,
        f"{x.compile_s:.1f} ({x.compile_cpu_s:.1f})" if x.compile_cpu_s else f"{x.compile_s:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _plot(results: Results) -> str:
    """Bars: how many times as fast as ONNX Runtime, a whisker from the lowest to the highest repeat."""
    measured = [x for x in results.measurements if not x.failure and "onnxruntime" in x.latency_ms]
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
