"""What a server tells browsers, and what it refuses from other sites."""

from __future__ import annotations

import contextlib
import socket

import httpx
import pytest

from edgec.fleet.api.protection import page_policy
from tests.fleet.servers import FleetServer


def signed_in(server: FleetServer) -> httpx.Client:
    browser = httpx.Client(base_url=server.url)
    answer = browser.post("/api/v1/session", json={"token": server.token})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=lax", "max-age=43200", "path=/"))
    return browser


@pytest.mark.parametrize("path", ["/login", "/", "/api/docs", "/healthz", "/api/v1/me", "/v2/", "/nothing"])
def test_every_response_has_the_headers(server: FleetServer, path: str) -> None:
    headers = httpx.get(server.url + path, headers={"Accept": "text/html"}).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["referrer-policy"] == "same-origin"
    policy = headers["content-security-policy"]
    scripts = next(
        (part for part in policy.split("; ") if part.startswith("script-src")), "default-src 'none'"
    )
    assert "'unsafe-inline'" not in scripts
    assert "frame-ancestors" in policy
    assert "strict-transport-security" not in headers, "only over https"


def test_a_script_that_someone_injects_is_not_in_the_policy() -> None:
    policy = page_policy(b"<script>ours()</script><script src=/x.js></script>", "fleet.example.org")
    assert policy.count("'sha256-") == 1
    assert "connect-src 'self' ws://fleet.example.org wss://fleet.example.org;" in policy
    assert "evil" not in page_policy(b"", "a; script-src evil")


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ({"Origin": "SERVER"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "https://HOST"}, True),  # https ends at a proxy
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({}, False),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, False),
    ],
)
def test_a_cookie_counts_only_for_our_own_pages(
    server: FleetServer, headers: dict[str, str], accepted: bool
) -> None:
    host = server.url.removeprefix("http://")
    sent = {
        name: value.replace("SERVER", server.url).replace("HOST", host) for name, value in headers.items()
    }
    with contextlib.closing(signed_in(server)) as browser:
        answer = browser.post("/api/v1/enroll-tokens", json={}, headers=sent)
        assert answer.status_code == (201 if accepted else 403), answer.text
        assert browser.get("/api/v1/me", headers=sent).status_code == 200
    token = {"Authorization": f"Bearer {server.token}"}
    assert httpx.post(f"{server.url}/api/v1/enroll-tokens", json={}, headers=sent | token).status_code == 201


def test_another_sites_websocket_is_refused(server: FleetServer) -> None:
    def upgrade(origin: str) -> bytes:
        with socket.create_connection(("127.0.0.1", server.info["port"]), 30) as connection:
            connection.sendall(
                b"GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: %s\r\n\r\n"
                % (server.info["port"], origin.encode())
            )
            return connection.recv(64).split(b"\r\n")[0]

    assert b"403" in upgrade("http://evil.example")
    assert b"101" in upgrade(server.url)
