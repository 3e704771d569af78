"""A damaged identity is said and mended, and never makes another device."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.device_agent.cloud import certificates
from edgec.device_agent.cloud.identity import identity_file, load_identity
from edgec.device_agent.errors import StateError
from edgec.device_agent.health.doctor import examine
from edgec.protocol.enrol import EnrollResponse, MqttAccess, RegistryAccess
from tests.device_agent.harness import AgentProcess, note

ANSWER = EnrollResponse(
    device="cam-7", fleet="f", mqtt=MqttAccess(host="127.0.0.1", port=9, username="cam-7", password="x"),
    registry=RegistryAccess(url="http://127.0.0.1:9", token="t"), api_url="http://127.0.0.1:9",
)  # fmt: skip


def enrolled(state: Path) -> Path:
    state.mkdir(exist_ok=True)
    identity_file(state).save(ANSWER.model_dump(mode="json"))
    return state


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_wrong_byte_leaves_the_same_device(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    state = enrolled(tmp_path_factory.mktemp("identity"))
    path = state / data.draw(st.sampled_from(["identity.json", "identity.json.old"]))
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 2))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    found = load_identity(state)
    assert found is not None
    assert found.device == "cam-7"
    assert (state / "identity.json").read_bytes() == (state / "identity.json.old").read_bytes()
    note("identity: a byte wrong, alone", 0.0, None)


def test_an_identity_that_is_lost_stops_the_agent(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path, '[streams.a]\nsource = "test"\n')
    enrolled(agent.state)
    for name in ("identity.json", "identity.json.old"):
        (agent.state / name).write_bytes((agent.state / name).read_bytes().replace(b"cam-7", b"cam-8"))
    agent.start()
    assert agent.wait_ended() == 1
    assert "identity" in agent.log_text()
    assert "damaged" in agent.log_text()
    assert "agent enroll --device" in agent.log_text()
    found = {one.what: one for one in examine(agent.config)}["identity"]
    assert (found.verdict, "damaged" in found.text) == ("bad", True)
    with pytest.raises(StateError):
        load_identity(agent.state)


def _certified(state: Path) -> dict[str, bytes]:
    """A state folder with a key, a certificate for it and an authority, as enrolment leaves it."""
    from edgec.fleet.certificates.authority import Authority

    authority = Authority.create(state.parent / f"{state.name}-ca", "test", 10)
    request = certificates.request_for(state, "cam-7")
    made = authority.device(request, "cam-7", timedelta(hours=1))
    answer = ANSWER.model_copy(update={"certificate": made.pem, "ca_pem": authority.pem})
    certificates.store(state, answer)
    return {name: (state / name).read_bytes() for name in ("device.key", "device.pem", "fleet-ca.pem")}


@pytest.mark.parametrize("name", ["device.key", "device.pem", "fleet-ca.pem"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_a_damaged_certificate_is_written_again(tmp_path: Path, name: str, harm: str) -> None:
    whole = _certified(tmp_path)
    path, raw = tmp_path / name, bytearray(whole[name])
    if harm == "gone":
        path.unlink()
    else:
        raw[len(raw) // 2] ^= 0x80
        path.write_bytes(raw[:60] if harm == "cut" else raw)
    assert certificates.repair(tmp_path) == name
    assert {one: (tmp_path / one).read_bytes() for one in whole} == whole
    assert certificates.repair(tmp_path) == ""
    key = serialization.load_pem_private_key((tmp_path / "device.key").read_bytes(), None)
    assert x509.load_pem_x509_certificate(whole["device.pem"]).public_key() == key.public_key()
    assert (tmp_path / "device.key").stat().st_mode & 0o077 == 0
