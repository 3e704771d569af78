"""Commands that arrive as jobs: each reaches its part, or fails with the reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgec.device_agent.cloud.commands import Commands
from edgec.device_agent.errors import UpdateError
from edgec.device_agent.updates.deployments import Version
from edgec.protocol.jobs import CommandDocument


def carry_out(**document: Any) -> tuple[Any, list[Any]]:
    """Carry a command out with parts that record their calls."""
    calls: list[Any] = []
    runner = SimpleNamespace(restart=lambda why: calls.append(("stream", why)))
    inference = SimpleNamespace(
        streams={},
        kill=lambda why: calls.append(("kill", why)),
        load_slot=lambda slot: calls.append(("load", slot)),
    )
    catalog = SimpleNamespace(roll_back=lambda slot, _digest: (slot or "m", Version("sha256:o", "d", "1")))
    commands = Commands(
        None, inference, SimpleNamespace(runners={"door": runner}), catalog,  # type: ignore[arg-type]
        enrolled=document.pop("enrolled", False), report_health=lambda: calls.append("health"),
    )  # fmt: skip
    return commands.carry_out("j1", CommandDocument.model_validate(document)), calls


def test_commands_reach_their_parts() -> None:
    assert carry_out(operation="report-health") == ({}, ["health"])
    assert carry_out(operation="restart")[1][0][0] == "kill"
    assert carry_out(operation="restart-stream", stream="door")[1][0][0] == "stream"
    details, calls = carry_out(operation="rollback", slot="m")
    assert details == {"slot": "m", "running_version": "1", "running_digest": "sha256:o"}
    assert calls == [("load", "m")]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"operation": "restart-stream", "stream": "attic"}, "no stream attic"),
        ({"operation": "snapshot"}, "not enrolled"),
        ({"operation": "capture", "stream": "attic", "enrolled": True}, "no stream attic"),
    ],
)
def test_what_is_not_there_fails_with_the_reason(document: dict[str, Any], message: str) -> None:
    with pytest.raises(UpdateError, match=message):
        carry_out(**document)
