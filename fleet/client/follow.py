"""Follow a rollout until it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from edgec.fleet.client.connection import FleetClient
from edgec.fleet.errors import FleetError

PACE_S = 0.5


class RolloutFailed(FleetError):
    """The rollout did not succeed."""

    exit_code = 5


def follow(client: FleetClient, rollout_id: int, timeout_s: float | None = None) -> Iterator[dict[str, Any]]:
    """Poll a rollout and yield each state; the last one has ended.

    Raises:
        FleetError: it did not end within `timeout_s`.
    """
    end = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        rollout: dict[str, Any] = client.get(f"/rollouts/{rollout_id}")
        yield rollout
        if rollout["ended"]:
            return
        if end is not None and time.monotonic() > end:
            raise FleetError(
                f"rollout {rollout_id} is still {rollout['state']} after {timeout_s:g} s; it continues: "
                f"edgec fleet rollouts show {rollout_id}"
            )
        time.sleep(PACE_S)
