"""Kernels whose registers do not suffice: a candidate that keeps values in a stack frame gives way to the next.

Only the assembler knows how many registers a kernel takes. So the chosen candidates are compiled, all at once, before
the choice is final; what is compiled lies in the cache for the build.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from edgec.compiler.backends.interface import Workload
from edgec.compiler.progress import Progress
from edgec.targets.detection import usable_cores

_TRIED = 8  # candidates of a kernel, the first included


def without_frames(
    chosen: Mapping[str, tuple[Workload, Any]],
    source_of: Callable[[str, Workload, Any], str | None],
    frame_of: Callable[[str], int],
    progress: Progress,
) -> dict[str, Any]:
    """The candidate of each kernel that has no stack frame: the chosen one, or the next in the order of estimates.

    Args:
        chosen: by symbol, the workload and its candidate.
        source_of: the source text of a kernel's candidate; None for one that cannot be made.
        frame_of: the largest stack frame of a source text's kernels, in bytes, for any of the target's architectures.
        progress: told which candidates were dropped.

    Returns:
        the candidates by symbol. Where all that were tried have a frame, the one with the smallest.
    """
    settled = {symbol: candidate for symbol, (_, candidate) in chosen.items()}
    smallest: dict[str, tuple[int, Any]] = {}
    left = {symbol: _in_order(*one) for symbol, one in chosen.items() if len(one[0].candidates) > 1}
    for number in range(_TRIED):
        texts = {}
        for symbol, candidates in left.items():
            text = (
                source_of(symbol, chosen[symbol][0], candidates[number]) if number < len(candidates) else None
            )
            if text is not None:
                texts[symbol] = text
        if not texts:
            break
        with ThreadPoolExecutor(min(usable_cores(), len(texts))) as threads:
            frames = dict(zip(texts, threads.map(frame_of, texts.values()), strict=True))
        for symbol, frame in frames.items():
            candidate = left[symbol][number]
            if frame:
                progress.note(f"{symbol}: {candidate} needs {frame} bytes beyond its registers; dropped")
            if symbol not in smallest or frame < smallest[symbol][0]:
                smallest[symbol] = (frame, candidate)
                settled[symbol] = candidate
        left = {symbol: candidates for symbol, candidates in left.items() if frames.get(symbol, 1)}
    return settled


def _in_order(work: Workload, first: Any) -> Sequence[Any]:  # noqa: ANN401 - each template has its own candidates
    """The chosen candidate, then those behind it, then those before it."""
    place = next((n for n, one in enumerate(work.candidates) if one == first), 0)
    return [first, *work.candidates[place + 1 :], *work.candidates[:place]]
