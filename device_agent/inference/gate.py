"""Gates: withhold frames from the model while nothing moves, or nothing is heard."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from edgec.device_agent.config.rules import Gate as Settings
from edgec.device_agent.process.ring import Frame, Kind

_WIDTH = 160
_SILENCE_DBFS = -120.0


class GateKeeper:
    """Decides for each frame; `last_measure` is the changed share of the picture, or the level in dBFS."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ground: NDArray[np.float32] | None = None
        self._open_until = self._refresh_at = -math.inf
        self.last_measure = 0.0

    def passes(self, frame: Frame, now_s: float) -> bool:
        """Return whether to pass this frame to the model."""
        if frame.kind is Kind.SOUND:
            self.last_measure = level_dbfs(frame.data)
            active = self.last_measure >= self._settings.level_dbfs
        else:
            self.last_measure = self._changed(frame.data)
            active = self.last_measure >= self._settings.area
        if active:
            self._open_until = now_s + self._settings.hold_s
        if now_s <= self._open_until or now_s >= self._refresh_at:
            self._refresh_at = now_s + self._settings.refresh_s
            return True
        return False

    def _changed(self, picture: NDArray[np.generic]) -> float:
        height, width = picture.shape[:2]
        small = cv2.resize(
            np.asarray(picture, np.uint8),
            (min(width, _WIDTH), max(1, round(height * min(width, _WIDTH) / width))),
            interpolation=cv2.INTER_AREA,
        )
        grey = np.asarray(cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), (5, 5), 0), np.float32)
        if self._ground is None or self._ground.shape != grey.shape:
            self._ground = grey
            return 1.0
        changed = float(np.mean(np.abs(grey - self._ground) > self._settings.threshold))
        # If the whole picture changed, light or view did: adapt the background quickly.
        rate = 0.5 if changed > 0.6 else 0.05
        self._ground += rate * (grey - self._ground)
        return changed


def level_dbfs(samples: NDArray[np.generic]) -> float:
    """Root mean square of samples in -1…1, in decibels below full scale."""
    power = float(np.mean(np.square(np.asarray(samples, np.float64)))) if samples.size else 0.0
    return max(_SILENCE_DBFS, 10 * math.log10(power)) if power > 0 else _SILENCE_DBFS
