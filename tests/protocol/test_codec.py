"""Messages survive encoding; later versions are tolerated, and anything else is refused with the field's name."""

from __future__ import annotations

import pytest

from edgec.protocol.codec import MAX_PAYLOAD_BYTES, decode, encode
from edgec.protocol.errors import ProtocolError
from edgec.protocol.status import Presence, Status

STATUS = Status(state=Presence.ONLINE, boot_id="b", session_seq=3)


def test_a_message_survives_the_journey() -> None:
    assert decode(Status, encode(STATUS)) == STATUS


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda payload: payload.decode()])
def test_every_kind_of_buffer_is_read(kind: type) -> None:
    assert decode(Status, kind(encode(STATUS))) == STATUS


def test_absent_fields_are_not_sent() -> None:
    assert b"time" not in encode(STATUS)


def test_fields_of_later_versions_are_ignored() -> None:
    assert decode(Status, encode(STATUS).replace(b"{", b'{"from_the_future":[1],', 1)) == STATUS
    assert (
        decode(Status, encode(STATUS).replace(b'"schema_version":1', b'"schema_version":9')).schema_version
        == 9
    )


def test_the_error_names_the_message_and_the_field() -> None:
    with pytest.raises(ProtocolError, match=r"^Status: session_seq: "):
        decode(Status, b'{"state":"online","boot_id":"b"}')
    with pytest.raises(ProtocolError, match=r"^Status: state: "):
        decode(Status, b'{"state":"asleep","boot_id":"b","session_seq":1}')


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"session_seq":NaN}'])
def test_what_is_not_the_message_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="Status"):
        decode(Status, payload)


def test_both_directions_have_the_same_limit() -> None:
    fitting = Status(
        state=Presence.ONLINE, boot_id="b", session_seq=3, reason="x" * (MAX_PAYLOAD_BYTES - 200)
    )
    assert decode(Status, encode(fitting)) == fitting
    with pytest.raises(ProtocolError, match=f"longer than {MAX_PAYLOAD_BYTES}"):
        encode(fitting.model_copy(update={"reason": "x" * MAX_PAYLOAD_BYTES}))
    with pytest.raises(ProtocolError, match=f"longer than {MAX_PAYLOAD_BYTES}"):
        decode(Status, b" " * (MAX_PAYLOAD_BYTES + 1))
