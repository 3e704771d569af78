"""Enrolment: what a device sends and receives."""

from __future__ import annotations

import json

import pytest

from edgec.protocol.codec import decode, encode
from edgec.protocol.enrol import EnrollRequest, EnrollResponse, MqttAccess, RegistryAccess
from edgec.protocol.errors import ProtocolError

RESPONSE = EnrollResponse(
    device="cam-7", fleet="f", mqtt=MqttAccess(host="h", port=1883), registry=RegistryAccess(url="http://h:1")
)


def test_a_request_needs_no_more_than_a_token() -> None:
    assert decode(EnrollRequest, '{"token":"t"}') == EnrollRequest(token="t")


def test_the_response_survives_the_journey_without_what_was_not_issued() -> None:
    assert decode(EnrollResponse, encode(RESPONSE)) == RESPONSE
    assert not {"certificate", "ca_pem", "trusted_root"} & set(json.loads(encode(RESPONSE)))


@pytest.mark.parametrize("change", [{"device": "../x"}, {"token": "t" * 513}, {"csr": "x" * 8193}])
def test_requests_that_cannot_be_meant_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(ProtocolError, match=f"EnrollRequest: {next(iter(change))}"):
        decode(EnrollRequest, json.dumps({"token": "t"} | change))


@pytest.mark.parametrize("port", [0, 65536])
def test_ports_that_do_not_exist_are_refused(port: int) -> None:
    table = json.loads(encode(RESPONSE))
    table["mqtt"]["port"] = port
    with pytest.raises(ProtocolError, match=r"EnrollResponse: mqtt\.port"):
        decode(EnrollResponse, json.dumps(table))
