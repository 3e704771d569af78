"""The page of results on a GPU."""

from __future__ import annotations

from statistics import geometric_mean

from edgec.benchmarks.gpu.run import Outcome, Results

_SIDES = ("eager", "channels last", "compiled")
_NONE = """\
# NVIDIA GPUs

No GPU was at hand when this was written: nothing has been run on one, and speed is unknown.
"""
_HEAD = (
    "network", "precision", "error", "right", "edgec ms", "kernels ms", "× eager", "× channels last", "× compiled",
    "sanitizer",
)  # fmt: skip


def page(results: Results | None) -> str:
    """Markdown; without results it says that there are none."""
    if results is None:
        return _NONE
    lines = [
        "# NVIDIA GPUs",
        "",
        f"{results.device}; artifacts for `{results.target}`; {results.seconds:.0f} s. A call goes from arrays of the",
        "host to arrays of the host; ratios above 1: edgec is faster.",
        "",
        f"| {' | '.join(_HEAD)} |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---|",
        *map(_row, results.outcomes),
        "",
    ]
    ratios = [
        one.median_ms["compiled"] / one.median_ms["edgec"]
        for one in results.outcomes
        if "compiled" in one.median_ms
    ]
    if ratios:
        lines += [
            f"Geometric mean beside `torch.compile`: {geometric_mean(ratios):.2f} ({len(ratios)} cases).",
            "",
        ]
    return "\n".join(lines)


def _row(one: Outcome) -> str:
    if one.failed:
        return f"| {one.network} | {one.precision} | | failed: {one.failed} | | | | | | |"
    ours = one.median_ms["edgec"]
    beside = [f"{one.median_ms[side] / ours:.2f}" if side in one.median_ms else "–" for side in _SIDES]
    verdict = "yes" if one.right else "**no**"
    cells = [one.network, one.precision, f"{one.error:.1e}", verdict, f"{ours:.3f}", f"{one.device_ms:.3f}"]
    cells += [*beside, one.sanitizer or "–"]
    return f"| {' | '.join(cells)} |"
