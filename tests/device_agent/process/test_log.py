"""Redaction of secrets in the log."""

from __future__ import annotations

from edgec.device_agent.process.log import redact


def test_secrets_do_not_reach_the_log() -> None:
    for text in (
        "rtsp://admin:hunter2@10.0.0.1/live", "token=hunter2 rest", '{"password": "hunter2"}',
        "Authorization: Bearer hunter2",
    ):  # fmt: skip
        assert "hunter2" not in redact(text)
    assert redact("nothing to hide: 7 tokens") == "nothing to hide: 7 tokens"
