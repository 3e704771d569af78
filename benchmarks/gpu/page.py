"""The page of results on a GPU."""

from __future__ import annotations

from statistics import geometric_mean

from edgec.benchmarks.gpu.outcomes import Outcome, Results

_SIDES = ("eager", "channels last", "compiled")
_NONE = """\
# NVIDIA GPUs

No GPU was at hand when this was written: nothing has been run on one, and speed is unknown. Nothing is claimed of
Jetson boards either.

With a GPU and a quarter of an hour, this makes the page that belongs here. On any machine with edgec and its extra
`cuda`:

```sh
python -m edgec.benchmarks.gpu prepare proof --target h100
```

Copy the folder `proof`, without `models` in it, to the GPU's machine, which needs the driver and Python 3.11 or later
(PyTorch and compute-sanitizer are used where they are installed), and run `proof/run.sh` there. It ends within 600 s
(`prepare --seconds`), and writes `results.json` after each step and `gpu.md` at the end: this page.
"""
_HEAD = (
    "network", "precision", "batch", "error", "right", "edgec ms", "events ms", "kernels ms", "× eager",
    "× channels last", "× compiled", "on GPU ms", "× compiled there", "sanitizer",
)  # fmt: skip


def page(results: Results | None) -> str:
    """Markdown; without results it says that there are none."""
    if results is None:
        return _NONE
    lines = [
        "# NVIDIA GPUs",
        "",
        f"{results.device}; artifacts for `{results.target}`; {results.seconds:.0f} s. A call goes from arrays of the",
        "host to arrays of the host (events: copies and kernels, without the host; on GPU: from arrays there to arrays",
        "there). Ratios above 1: edgec is faster.",
        "",
        f"| {' | '.join(_HEAD)} |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
        *map(_row, results.outcomes),
        "",
    ]
    for precision, batch in dict.fromkeys((one.precision, one.batch) for one in results.outcomes):
        ratios = [
            one.median_ms["compiled"] / one.median_ms["edgec"]
            for one in results.outcomes
            if (one.precision, one.batch) == (precision, batch) and "compiled" in one.median_ms
        ]
        if ratios:
            mean = f"{geometric_mean(ratios):.2f} ({len(ratios)} networks)"
            lines += [f"Geometric mean beside `torch.compile`, {precision}, batch {batch}: {mean}.", ""]
    lines += [
        f"- {one.network}, {one.precision}, batch {one.batch}: {note}"
        for one in results.outcomes
        for note in one.notes
    ]
    return "\n".join(lines)


def _row(one: Outcome) -> str:
    if one.failed or one.error is None or "edgec" not in one.median_ms:
        return f"| {one.network} | {one.precision} | {one.batch} | | failed: {one.failed} | | | | | | | | | |"
    ours = one.median_ms["edgec"]
    beside = [f"{one.median_ms[side] / ours:.2f}" if side in one.median_ms else "–" for side in _SIDES]
    verdict = "yes" if one.right else "**no**"
    events, device = ("–" if ms is None else f"{ms:.3f}" for ms in (one.events_ms, one.device_ms))
    cells = [
        one.network,
        one.precision,
        str(one.batch),
        f"{one.error:.1e}",
        verdict,
        f"{ours:.3f}",
        events,
        device,
    ]
    there = one.resident_ms.get("edgec")
    cells += [*beside, "–" if there is None else f"{there:.3f}"]
    compiled = one.resident_ms.get("compiled")
    cells += ["–" if there is None or compiled is None else f"{compiled / there:.2f}", one.sanitizer or "–"]
    return f"| {' | '.join(cells)} |"
