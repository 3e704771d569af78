"""The watchdog after the probation: rolls back a model that keeps killing the process or fails on every frame."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from edgec.device_agent.errors import StateError
from edgec.device_agent.inference.messages import ModelCounters, SlotCounters
from edgec.device_agent.inference.pulse import fingerprint
from edgec.device_agent.updates.deployments import Deployments, SlotState, Version

log = logging.getLogger("watchdog")

_DEATHS, _DEATHS_S = 3, 600.0
_FAILURES, _LOOKS = 20, 3


class Watchdog:
    """Watches committed models; each method returns the slots that it rolled back, with a sentence for health."""

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments
        self._deaths: dict[int, deque[float]] = {}
        self._before: dict[str, tuple[str, int, int]] = {}
        self._failing: dict[str, int] = {}

    def died(self, mark: int) -> list[tuple[str, str]]:
        """The inference process died while it called or loaded the model with this fingerprint."""
        now = time.monotonic()
        deaths = self._deaths.setdefault(mark, deque(maxlen=_DEATHS))
        deaths.append(now)
        if len(deaths) < _DEATHS or now - deaths[0] > _DEATHS_S:
            return []
        deaths.clear()
        why = f"ended the inference process {_DEATHS} times within {_DEATHS_S / 60:.0f} minutes"
        return self._roll_back(lambda version: fingerprint(version.digest) == mark, why)

    def check(self, slots: dict[str, SlotCounters]) -> list[tuple[str, str]]:
        """Check the counters of every slot; called for each health report."""
        gone: list[tuple[str, str]] = []
        for slot, counters in slots.items():
            now = counters.active or ModelCounters()
            digest, inferences, errors = now.manifest_digest, now.inferences, now.errors
            before = self._before.get(slot)
            if before is None or before[0] != digest or inferences < before[1]:
                self._before[slot], self._failing[slot] = (digest, inferences, errors), 0
                continue
            done, failed = inferences - before[1], errors - before[2]
            if done < _FAILURES:
                continue
            self._before[slot] = digest, inferences, errors
            self._failing[slot] = self._failing.get(slot, 0) + 1 if failed == done else 0
            if self._failing[slot] >= _LOOKS:
                self._failing[slot] = 0
                why = f"failed on every frame ({now.last_error})"
                gone += self._roll_back(lambda version: version.digest == digest, why)  # noqa: B023
        return gone

    def _roll_back(self, is_meant: Callable[[Version], bool], why: str) -> list[tuple[str, str]]:
        gone = []
        update = self._deployments.update
        for slot in self._deployments.slots():
            state = self._deployments.slot(slot)
            current, previous = state.current, state.previous
            if current is None or not is_meant(current) or (update is not None and update.slot == slot):
                continue  # the probation of an update judges for itself
            if previous is None or previous.digest == current.digest:
                log.error("slot %s: %s %s, and there is no previous model", slot, _name(current), why)
                continue
            try:
                self._deployments.set_slot(slot, SlotState(previous, None, state.factory))
            except StateError as error:
                log.error(
                    "slot %s: %s %s; it cannot be rolled back yet: %s", slot, _name(current), why, error
                )
                continue
            gone.append((slot, f"{_name(current)} {why}: {_name(previous)} runs again"))
        return gone


def _name(version: Version) -> str:
    return f"{version.name or version.digest[:19]} {version.version}".rstrip()
