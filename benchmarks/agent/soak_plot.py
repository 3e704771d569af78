"""Plot a soak test: `python -m edgec.benchmarks.agent.soak_plot soak.csv soak.png`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_WIDTH, _ROW, _LEFT, _RIGHT = 1200, 220, 90, 30
_INK, _GRID, _FONT = (60, 50, 40), (225, 225, 225), cv2.FONT_HERSHEY_SIMPLEX
_PANELS = (
    ("memory, MB", 1, (180, 110, 40)),
    ("frames a second", 2, (70, 140, 60)),
    ("capture to a subscriber of the broker, ms: median of ten seconds", 3, (60, 60, 190)),
)


def draw(rows: NDArray[Any]) -> NDArray[np.uint8]:
    """Draw one panel per figure over time; the scale excludes the highest 1 %."""
    picture = np.full((_ROW * len(_PANELS) + 40, _WIDTH, 3), 255, np.uint8)
    last = float(rows[-1, 0])
    for place, (title, column, colour) in enumerate(_PANELS):
        top, bottom = _ROW * place + 40, _ROW * (place + 1)
        values = rows[:, column]
        high = float(np.nanpercentile(values, 99)) * 1.15 or 1.0
        for share in (0.0, 0.5, 1.0):
            level = round(bottom - share * (bottom - top))
            cv2.line(picture, (_LEFT, level), (_WIDTH - _RIGHT, level), _GRID, 1)
            text = f"{share * high:.0f}"
            cv2.putText(picture, text, (40, level + 5), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
        across = _LEFT + rows[:, 0] / last * (_WIDTH - _LEFT - _RIGHT)
        down = bottom - np.clip(values / high, 0, 1) * (bottom - top)
        points = np.stack([across, down], axis=1)[np.isfinite(values)].astype(np.int32)
        cv2.polylines(picture, [points], False, colour, 1, cv2.LINE_AA)
        cv2.putText(picture, title, (_LEFT, top - 10), _FONT, 0.55, _INK, 1, cv2.LINE_AA)
    for minute in range(0, int(last // 60) + 1, 5):
        at = round(_LEFT + minute * 60 / last * (_WIDTH - _LEFT - _RIGHT))
        cv2.putText(
            picture, f"{minute} min", (at - 20, picture.shape[0] - 12), _FONT, 0.5, _INK, 1, cv2.LINE_AA
        )
    return picture


def main() -> None:
    """Read the CSV and write the picture."""
    source, output = Path(sys.argv[1]), Path(sys.argv[2])
    cv2.imwrite(str(output), draw(np.genfromtxt(source, delimiter=",", skip_header=1)))


if __name__ == "__main__":
    main()
