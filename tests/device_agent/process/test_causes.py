"""A clock that is wrong is named, not the certificate that it rejects."""

from __future__ import annotations

import http.server
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgec.device_agent.process.causes import cause_of, clock_cause

DAY = timedelta(days=1)


def certificate(folder: Path, begin: datetime, end: datetime) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(params=["not yet", "no longer"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str, Path]]:
    """A server whose certificate is valid at another time than now."""
    now = datetime.now(UTC)
    begin, end = (now + DAY, now + 9 * DAY) if request.param == "not yet" else (now - 9 * DAY, now - DAY)
    path = certificate(tmp_path, begin, end)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    running.socket = context.wrap_socket(running.socket, server_side=True)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield request.param, f"https://localhost:{running.server_port}", path
    running.shutdown()


def test_the_clock_is_named(server: tuple[str, str, Path]) -> None:
    _, url, ca = server
    with pytest.raises(httpx.HTTPError) as raised:
        httpx.get(url, verify=ssl.create_default_context(cafile=ca))
    said = cause_of(raised.value)
    assert said.startswith(f"this device's clock shows {time.strftime('%Y-%m-%d', time.gmtime())}"), said
    assert "set the clock" in said
    assert "CERTIFICATE_VERIFY_FAILED" not in said


def test_other_failures_keep_their_words() -> None:
    with pytest.raises(httpx.HTTPError) as raised:
        httpx.get("http://127.0.0.1:9/")
    assert clock_cause(raised.value) == ""
    assert "refused" in cause_of(raised.value)
