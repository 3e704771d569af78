"""Secrets are masked whole, and what is none stays readable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.protocol.masking import mask


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://admin:hunter2@10.0.0.1/live", "rtsp://admin:hun@ter2@10.0.0.1/live?x=1", "token=hunter2 rest",
        "rtsp://admin:hun:ter2@cam", "mqtts://u:hun/ter2@host:8883", '{"password": "hun, ter2"}', "secret='hun ter2'",
        "Authorization: Bearer hunter2", "http://x/?token=hunter2&y=1", "api-key: hunter2",
        "[opening rtsp://:hunter2@cam: failed]",
    ],
)  # fmt: skip
def test_secrets_are_masked_whole(text: str) -> None:
    shown = mask(text)
    assert "hun" not in shown
    assert "ter2" not in shown
    assert "***" in shown


def test_what_is_no_secret_stays() -> None:
    for text in (
        "nothing to hide: 7 tokens", "http://10.0.0.1:8600/v2/models/a@sha256:1", "mail a@b.c", "https://cam/live@2",
        "rtsp://cam.local:554/live",
    ):  # fmt: skip
        assert mask(text) == text
    assert mask("rtsp://admin:x@cam:554/live is gone") == "rtsp://admin:***@cam:554/live is gone"


@given(
    st.text(
        st.characters(codec="ascii", exclude_categories=["C", "Z"], exclude_characters="\"'<>"), min_size=6
    )
)
def test_no_part_of_any_password_is_left(password: str) -> None:
    if password.partition("/")[0].isdigit():
        return  # A port.
    assert mask(f"rtsp://user:{password}@camera.local/live") == "rtsp://user:***@camera.local/live"
