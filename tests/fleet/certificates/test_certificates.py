"""Certificates: our authority or one brought along, enrolment by token and by claim, mutual TLS to broker and server,
expiry, revocation and renewal."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from paho.mqtt.enums import CallbackAPIVersion

from edgec.benchmarks.fleet.backends import Mosquitto
from edgec.device_agent.cloud import certificates
from edgec.device_agent.cloud.identity import enroll
from edgec.device_agent.errors import EnrollError
from edgec.fleet.certificates.authority import Authority
from edgec.fleet.errors import FleetError
from edgec.protocol.enrol import EnrollResponse
from tests import preloaded
from tests.fleet.servers import Backend, FleetServer, wait_for

SHORT_S = 6.0


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """A server with TLS everywhere, and its own authority."""
    running = FleetServer(tmp_path_factory.mktemp("tls") / "data", "--tls").start()
    yield running
    assert running.stop() == 0, running.log.read_text()


def ca_of(server: FleetServer) -> Path:
    return server.data / "ca" / "ca.pem"


def http(server: FleetServer, state: Path | None = None, token: str | None = None) -> httpx.Client:
    context = ssl.create_default_context(cafile=ca_of(server))
    if state is not None:
        context.load_cert_chain(state / certificates.CERTIFICATE, state / certificates.KEY)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=server.url, verify=context, headers=headers)


def enrolled(server: FleetServer, state: Path, name: str, **body: Any) -> EnrollResponse:
    with http(server, token=server.token) as client:
        token = client.post("/api/v1/enroll-tokens", json={"uses": 1} | body).json()["token"]
    return enroll(server.url, token, state, device=name, labels={}, ca=ca_of(server))


def mqtt_with(access: EnrollResponse, state: Path, ca: Path, **changes: Any) -> tuple[mqtt.Client, str]:
    """Connect with the certificate alone; why it did not work, empty if it did."""
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, f"edgec-{access.fleet}-{changes.get('name', access.device)}",
        reconnect_on_failure=False,
    )  # fmt: skip
    if username := changes.get("username"):
        client.username_pw_set(username, changes.get("password"))
    client.tls_set(str(ca), str(state / certificates.CERTIFICATE), str(state / certificates.KEY))
    answer: list[str] = []
    client.on_connect = lambda _c, _u, _f, reason, _p: answer.append(str(reason) if reason.is_failure else "")
    client.on_disconnect = lambda _c, _u, _f, reason, _p: answer.append(f"lost: {reason}")
    try:
        client.connect("127.0.0.1", changes.get("port", access.mqtt.port), 30)
    except (ssl.SSLError, OSError) as error:
        return client, f"refused: {error}"
    client.loop_start()
    wait_for(lambda: answer, 15, "an answer")
    return client, answer[0]


def close(client: mqtt.Client) -> None:
    client.disconnect()
    client.loop_stop()


def test_a_token_gives_a_certificate_that_is_enough_for_broker_and_server(
    secured: FleetServer, tmp_path: Path
) -> None:
    access = enrolled(secured, tmp_path, "tls-1")
    assert (tmp_path / certificates.KEY).stat().st_mode & 0o777 == 0o600
    made = x509.load_pem_x509_certificate((tmp_path / certificates.CERTIFICATE).read_bytes())
    assert made.subject.rfc4514_string() == "CN=tls-1"
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_of(secured).read_bytes()))
    client, refused = mqtt_with(access, tmp_path, ca_of(secured))
    assert refused == ""
    close(client)
    with http(secured, tmp_path) as by_certificate:
        assert by_certificate.get("/v2/").status_code == 200
        assert by_certificate.get("/api/v1/devices").status_code == 403, "a device is no operator"
    with http(secured) as nobody:
        assert nobody.get("/v2/").status_code == 401


def test_a_certificate_is_for_its_own_device_only(secured: FleetServer, tmp_path: Path) -> None:
    one = enrolled(secured, tmp_path / "a", "tls-2a")
    two = enrolled(secured, tmp_path / "b", "tls-2b")
    for changes in (
        {"username": "tls-2b", "password": two.mqtt.password},
        {"username": "edgec:fleet", "password": "x"},
        {"name": "tls-2b"},
    ):
        client, refused = mqtt_with(one, tmp_path / "a", ca_of(secured), **changes)
        client.loop_stop()
        assert refused, changes


def test_an_authority_of_others_is_not_believed(secured: FleetServer, tmp_path: Path) -> None:
    access = enrolled(secured, tmp_path, "tls-3")
    other = Authority.create(tmp_path / "other", "edgec fleet default", 10)
    request = certificates.request_for(tmp_path, "tls-3")
    (tmp_path / certificates.CERTIFICATE).write_text(other.device(request, "tls-3", timedelta(days=1)).pem)
    client, refused = mqtt_with(access, tmp_path, ca_of(secured))
    client.loop_stop()
    assert refused
    with http(secured, tmp_path) as forged, pytest.raises(httpx.HTTPError):
        forged.get("/v2/").raise_for_status()


def test_revocation_takes_effect_at_once(secured: FleetServer, tmp_path: Path) -> None:
    access = enrolled(secured, tmp_path, "tls-4")
    client, refused = mqtt_with(access, tmp_path, ca_of(secured))
    assert refused == ""
    with http(secured, token=secured.token) as admin:
        [row] = admin.get("/api/v1/certificates", params={"device": "tls-4"}).json()["items"]
        assert admin.delete(f"/api/v1/certificates/{row['serial']}").status_code == 204
        wait_for(lambda: not client.is_connected(), 15, "the connection to be closed")
        client.loop_stop()
        again, refused = mqtt_with(access, tmp_path, ca_of(secured))
        again.loop_stop()
        assert refused
        with http(secured, tmp_path) as by_certificate:
            assert by_certificate.get("/v2/").status_code == 401
        listed = x509.load_pem_x509_crl(admin.get("/api/v1/ca/revoked").content)
        assert listed.get_revoked_certificate_by_serial_number(int(row["serial"], 16)) is not None
        # Its token still counts, so it gets another; with the device revoked, nothing does.
        assert certificates.Renewer(tmp_path, secured.url, access.registry.token).due_in() > 0
        certificates.Renewer(tmp_path, secured.url, access.registry.token).renew()
        client, refused = mqtt_with(access, tmp_path, ca_of(secured))
        assert refused == ""
        admin.post("/api/v1/devices/tls-4/revoke").raise_for_status()
        wait_for(lambda: not client.is_connected(), 15, "the connection to be closed")
        client.loop_stop()
        with pytest.raises(EnrollError, match="401"):
            certificates.Renewer(tmp_path, secured.url, access.registry.token).renew()


def test_a_claim_certificate_enrols_what_waits_to_be_accepted(secured: FleetServer, tmp_path: Path) -> None:
    with http(secured, token=secured.token) as admin:
        made = admin.post("/api/v1/certificates/claims", json={"uses": 1}).json()
        factory = tmp_path / "factory"
        factory.mkdir()
        (factory / "claim.pem").write_text(made["certificate"])
        (factory / "claim.key").write_text(made["key"])
        (factory / "ca.pem").write_text(made["ca_pem"])
        seen_only = tmp_path / "thief"
        seen_only.mkdir()
        (seen_only / "claim.pem").write_text(made["certificate"])
        (seen_only / "claim.key").write_text(certificates._pem(certificates.ec.generate_private_key(
            certificates.ec.SECP256R1())).decode())  # fmt: skip
        with pytest.raises(EnrollError, match="403"):
            enroll(
                secured.url,
                "",
                tmp_path / "x",
                device="tls-5x",
                labels={},
                ca=ca_of(secured),
                claim=seen_only,
            )
        state = tmp_path / "state"
        access = enroll(secured.url, "", state, device="tls-5", labels={}, claim=factory)
        client, refused = mqtt_with(access, state, ca_of(secured))
        client.loop_stop()
        assert refused, "nobody has accepted it yet"
        admin.post("/api/v1/devices/tls-5/accept").raise_for_status()
        client, refused = mqtt_with(access, state, ca_of(secured))
        assert refused == ""
        close(client)
        with pytest.raises(EnrollError, match="used up"):
            enroll(secured.url, "", tmp_path / "y", device="tls-5y", labels={}, claim=factory)
        assert admin.delete(f"/api/v1/certificates/{made['serial']}").status_code == 204


def test_an_expired_certificate_is_refused_and_renewal_comes_before(tmp_path: Path) -> None:
    valid = {"EDGEC_FLEET_CERTIFICATE_VALID_S": str(SHORT_S)}
    server = FleetServer(tmp_path / "data", "--tls", **valid).start()
    try:
        state, kept = tmp_path / "state", tmp_path / "kept"
        access = enrolled(server, state, "tls-6")
        late = enrolled(server, kept, "tls-6-late")
        before = (state / certificates.CERTIFICATE).read_text()
        # Certificates begin five minutes early, so two thirds of this one's life are over already.
        renewer = certificates.Renewer(state, server.url, access.registry.token)
        renewer.start()
        wait_for(lambda: (state / certificates.CERTIFICATE).read_text() != before, 15, "a renewal")
        client, refused = mqtt_with(late, kept, ca_of(server))
        assert refused == ""
        close(client)
        expired = x509.load_pem_x509_certificate((kept / certificates.CERTIFICATE).read_bytes())
        wait_for(lambda: time.time() > expired.not_valid_after_utc.timestamp() + 0.1, SHORT_S + 5)
        client, refused = mqtt_with(late, kept, ca_of(server))
        client.loop_stop()
        assert refused, "expired"
        client, refused = mqtt_with(access, state, ca_of(server))
        assert refused == "", "renewed in time"
        close(client)
        renewer.stop()
    finally:
        assert server.stop() == 0


def test_an_authority_can_be_brought_along(tmp_path: Path) -> None:
    own = Authority.create(tmp_path / "company", "Company CA", 30)
    other = tmp_path / "other"
    Authority.create(other, "Other", 30)
    with pytest.raises(FleetError, match="is not the key of"):
        Authority.import_from(tmp_path / "a", tmp_path / "company" / "ca.pem", other / "ca.key")
    data = tmp_path / "data"
    command = ["fleet", "ca", "init", "--data", data]
    command += ["--certificate", tmp_path / "company" / "ca.pem", "--key", tmp_path / "company" / "ca.key"]
    assert preloaded.run(*command).returncode == 0
    again = preloaded.run(*command)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    server = FleetServer(data, "--tls").start()
    try:
        enrolled(server, tmp_path / "state", "own-1")
        made = x509.load_pem_x509_certificate((tmp_path / "state" / certificates.CERTIFICATE).read_bytes())
        made.verify_directly_issued_by(own.certificate)
    finally:
        server.stop()


def test_mosquitto_checks_certificates_and_revocations(
    backend: Backend, postgres: Any, tmp_path: Path
) -> None:
    """Mutual TLS without passwords at a broker of one's own: the certificate's name is the user."""
    data = tmp_path / "data"
    authority = Authority.create(data / "ca", "edgec fleet", 30)
    folder = tmp_path / "tls"
    command = ["fleet", "ca", "server", "127.0.0.1", "--data", data, "--out", folder]
    assert preloaded.run(*command).returncode == 0
    broker = Mosquitto(tmp_path / "mosquitto", "tls", tls=folder)
    (broker.folder / "revoked.pem").write_bytes(authority.revocation_list([], timedelta(days=1)))
    (broker.folder / "ca.pem").write_text(authority.pem)
    broker.start()
    server = FleetServer(
        data, **broker.settings(), EDGEC_FLEET_DATABASE=postgres.create(f"tls-{time.time_ns()}")
    )
    server.start()
    try:
        good, bad = tmp_path / "good", tmp_path / "bad"
        with server.client() as admin:
            for state, name in ((good, "m-good"), (bad, "m-bad")):
                token = admin.post("/enroll-tokens", {"uses": 1})["token"]
                access = enroll(server.url, token, state, device=name, labels={})
            ca = good / certificates.AUTHORITY
            for state in (good, bad):
                client, refused = mqtt_with(access, state, ca, port=broker.port)
                assert refused == ""
                close(client)
            heard: list[str] = []
            spy, _ = mqtt_with(access, bad, ca, port=broker.port)
            spy.on_message = lambda _c, _u, message: heard.append(message.topic)
            spy.subscribe([("#", 1), ("edgec/#", 1)])
            talker, _ = mqtt_with(access, good, ca, port=broker.port)
            talker.publish("edgec/v1/tls/m-bad/status", b"{}", 1).wait_for_publish(60)
            talker.publish("edgec/v1/tls/m-good/status", b"{}", 1, True).wait_for_publish(60)
            close(talker)
            assert heard == []
            admin.post("/devices/m-bad/revoke")
            close(spy)
            client, refused = mqtt_with(access, bad, ca, port=broker.port)
            client.loop_stop()
            assert refused, "the revocation list has it"
            client, refused = mqtt_with(access, good, ca, port=broker.port)
            assert refused == ""
            close(client)
    finally:
        server.stop()
        broker.stop()
