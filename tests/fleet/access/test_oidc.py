"""Sign-in through an identity provider that runs here."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import oidc_provider_mock
import pytest
from oidc_provider_mock import _storage

from edgec.fleet.access.oidc import parse_roles
from edgec.fleet.errors import FleetError
from tests.fleet.servers import FleetServer, wait_for

PEOPLE = {
    "u-1": {"preferred_username": "ann", "groups": ["edge-ops", "everyone"]},
    "u-2": {"preferred_username": "bob", "groups": ["accounting"]},
    "u-3": {"preferred_username": "cem", "groups": ["edge-admins", "edge-ops"]},
}


@dataclass
class Signed:
    """When people entered their password at the provider, as it says; None for just now."""

    at: float | None = None


@pytest.fixture(scope="module")
def signed() -> Signed:
    return Signed()


@pytest.fixture(scope="module")
def provider(signed: Signed) -> Iterator[str]:
    users = [_storage.User(sub=sub, claims=dict(claims)) for sub, claims in PEOPLE.items()]
    patch = pytest.MonkeyPatch()
    patch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    patch.setattr(
        _storage.AuthorizationCode, "get_auth_time", lambda _self: int(signed.at) if signed.at else None
    )
    with oidc_provider_mock.run_server_in_thread(user_claims=users) as running:
        yield f"http://localhost:{running.server_port}"
    patch.undo()


@pytest.fixture(scope="module")
def server(provider: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    settings = {
        "EDGEC_FLEET_OIDC_ISSUER": provider,
        "EDGEC_FLEET_OIDC_CLIENT_ID": "fleet",
        "EDGEC_FLEET_OIDC_CLIENT_SECRET": "secret",
        "EDGEC_FLEET_OIDC_ROLES": "edge-ops=operator, edge-admins=admin",
        "EDGEC_FLEET_CONFIRMED_S": "3",
    }
    running = FleetServer(tmp_path_factory.mktemp("oidc") / "data", **settings).start()
    yield running
    running.stop()


def come_back(browser: httpx.Client, sub: str, **query: str) -> str:
    """Go to the provider, sign in there as `sub`, and give the address that it sends the browser to."""
    start = browser.get("/api/v1/oidc/start", params=query)
    assert start.status_code == 303, start.text
    asked = parse_qs(urlsplit(start.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["nonce"][0] != asked["state"][0]
    answer = httpx.post(start.headers["location"], data={"sub": sub})
    assert answer.status_code == 302, answer.text
    return str(answer.headers["location"])


def browser_of(server: FleetServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"Origin": server.url})


def audited(server: FleetServer, action: str) -> list[dict[str, Any]]:
    with server.client() as client:
        return [line for line in client.pages("/audit") if line["action"] == action]


@pytest.mark.parametrize(
    ("sub", "name", "role"), [("u-1", "oidc:ann", "operator"), ("u-3", "oidc:cem", "admin")]
)
def test_groups_give_roles(server: FleetServer, provider: str, sub: str, name: str, role: str) -> None:
    browser = browser_of(server)
    answer = browser.get(come_back(browser, sub, next="/devices?state=offline"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/devices?state=offline")
    me = browser.get("/api/v1/me").json()
    assert (me["name"], me["role"]) == (name, role)
    assert browser.post("/api/v1/enroll-tokens", json={}).status_code == 201
    line = next(line for line in audited(server, "sign-in") if line["actor"] == name)
    assert line["subject"] == f"{provider} {sub}"
    assert browser.delete("/api/v1/session").status_code == 204
    assert browser.get("/api/v1/me").status_code == 401


def test_who_has_no_role_is_refused_and_audited(server: FleetServer) -> None:
    browser = browser_of(server)
    answer = browser.get(come_back(browser, "u-2"))
    assert answer.headers["location"].startswith("/login?refused=none%20of%20the%20groups%20of%20bob")
    assert browser.get("/api/v1/me").status_code == 401
    assert any("bob" in line["detail"]["reason"] for line in audited(server, "sign-in.refused"))


def test_what_comes_back_counts_once_and_in_the_browser_that_began(server: FleetServer) -> None:
    mine, other = browser_of(server), browser_of(server)
    address = come_back(mine, "u-1")
    assert "refused" in other.get(address).headers["location"], "another browser"
    assert mine.get(address).headers["location"] == "/"
    assert "refused" in mine.get(address).headers["location"], "the same code again"
    tampered = re.sub("code=[^&]+", "code=forged", come_back(other, "u-1"))
    assert "refused" in other.get(tampered).headers["location"]
    assert other.get("/api/v1/me").status_code == 401
    outside = other.get(come_back(other, "u-1", next="//evil.example/"))
    assert outside.headers["location"] == "/"


def test_a_proof_of_presence_is_a_new_sign_in_of_the_same_person(server: FleetServer, signed: Signed) -> None:
    browser = browser_of(server)
    server.enroll("oidc-doomed")
    browser.get(come_back(browser, "u-1"))
    wait_for(
        lambda: browser.delete("/api/v1/devices/nobody").status_code == 403, 30, "the proof to be too old"
    )
    assert browser.post("/api/v1/session/confirm", json={"token": server.token}).status_code == 401
    for at, sub in ((time.time() - 3600, "u-1"), (time.time() + 5, "u-3")):
        signed.at = at
        answer = browser.get(come_back(browser, sub, confirm="true", next="/devices/oidc-doomed"))
        assert "refused" in answer.headers["location"], (at, sub)
        assert browser.delete("/api/v1/devices/oidc-doomed").status_code == 403
    signed.at = time.time() + 5
    answer = browser.get(come_back(browser, "u-1", confirm="true", next="/devices/oidc-doomed"))
    assert answer.headers["location"] == "/devices/oidc-doomed"
    assert browser.delete("/api/v1/devices/oidc-doomed").status_code == 204


def test_settings_that_let_nobody_in_are_refused(tmp_path: Path) -> None:
    from edgec.fleet.settings import load_settings

    assert parse_roles("a=b=viewer,") == {"a=b": "viewer"}
    for wrong in ({"oidc_roles": "ops=root"}, {"oidc_issuer": "http://id.example.org"}):
        with pytest.raises(FleetError, match="OIDC"):
            load_settings(data=tmp_path, **wrong)
