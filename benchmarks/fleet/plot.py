"""Plot the fleet's figures by number of devices: `python -m edgec.benchmarks.fleet.plot FILE… PICTURE.png`.

The files are those that `scale` and `rollout` append to with `--output`; of several runs with the same number of
devices the last counts.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 1200, 300, 90, 210, 46, 40
_INK, _GRID, _FONT = (60, 50, 40), (225, 225, 225), cv2.FONT_HERSHEY_SIMPLEX
_COLOURS = ((180, 110, 40), (60, 60, 190), (70, 140, 60))
Line = tuple[str, list[tuple[float, float]]]


def read(paths: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Measurements by kind, ordered by number of devices."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in paths:
        for text in path.read_text().splitlines():
            row = json.loads(text)
            found.setdefault(row["what"], {})[row["devices"]] = row
    return {kind: [rows[number] for number in sorted(rows)] for kind, rows in found.items()}


def panels(found: dict[str, list[dict[str, Any]]]) -> list[tuple[str, list[Line]]]:
    """Title and lines of each panel."""
    scale, rollout = found.get("scale", []), found.get("rollout", [])

    def line(title: str, rows: list[dict[str, Any]], *path: str) -> Line:
        points = []
        for row in rows:
            value: Any = row
            for key in path:
                value = value[key]
            points.append((float(row["devices"]), float(value)))
        return title, points

    return [
        ("the overview, milliseconds, while all report every 30 s",
         [line("median", scale, "overview_ms", "p50"), line("99 %", scale, "overview_ms", "p99")]),
        ("cores in use meanwhile",
         [line("fleet", scale, "cores", "fleet"), line("PostgreSQL", scale, "cores", "postgresql")]),
        ("a rollout to all in three stages, seconds", [line("to its end", rollout, "seconds")]),
    ]  # fmt: skip


def _nice(high: float) -> float:
    step = 10 ** math.floor(math.log10(high or 1.0))
    return float(next(step * factor for factor in (1, 2, 5, 10) if step * factor >= high))


def draw(found: dict[str, list[dict[str, Any]]]) -> NDArray[np.uint8]:
    """Draw the panels over the number of devices, on a logarithmic scale from 100 to 10,000."""
    shown = panels(found)
    picture = np.full((_HEIGHT * len(shown), _WIDTH, 3), 255, np.uint8)
    for place, (title, lines) in enumerate(shown):
        top, bottom = _HEIGHT * place + _TOP, _HEIGHT * (place + 1) - _BOTTOM
        high = _nice(max((value for _, points in lines for _, value in points), default=1.0))

        def at(
            devices: float, value: float, top: int = top, bottom: int = bottom, high: float = high
        ) -> tuple[int, int]:
            across = (math.log10(devices) - 2) / 2
            return int(_LEFT + across * (_WIDTH - _LEFT - _RIGHT)), int(
                bottom - value / high * (bottom - top)
            )

        _text(picture, title, (_LEFT, top - 16), 0.6)
        for share in (0.0, 0.5, 1.0):
            (left, y), (right, _) = at(100, share * high), at(10_000, share * high)
            cv2.line(picture, (left, y), (right, y), _GRID, 1)
            _text(picture, f"{share * high:g}", (20, y + 5), 0.5)
        for devices in (100, 300, 1000, 3000, 10_000):
            x, y = at(devices, 0)
            _text(picture, f"{devices:,}", (x - 20, y + 24), 0.5)
        for (name, points), colour in zip(lines, _COLOURS, strict=False):
            if not points:
                continue
            places = [at(devices, value) for devices, value in points]
            cv2.polylines(picture, [np.array(places, np.int32)], False, colour, 2, cv2.LINE_AA)
            for x, y in places:
                cv2.circle(picture, (x, y), 4, colour, -1, cv2.LINE_AA)
            _text(picture, f"{name} {points[-1][1]:g}", (places[-1][0] + 14, places[-1][1] + 5), 0.5, colour)
    return picture


def _text(
    picture: NDArray[np.uint8],
    text: str,
    at: tuple[int, int],
    size: float,
    colour: tuple[int, int, int] = _INK,
) -> None:
    cv2.putText(picture, text, at, _FONT, size, colour, 1, cv2.LINE_AA)


def main() -> None:
    """Read, draw, write."""
    *files, output = (Path(name) for name in sys.argv[1:])
    if not cv2.imwrite(str(output), draw(read(files))):
        raise SystemExit(f"{output} cannot be written")


if __name__ == "__main__":
    main()
