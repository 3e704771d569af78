"""Sign-in through an OpenID Connect provider: authorization code flow with PKCE, groups to roles.

The provider's metadata and keys are fetched when they are needed, so that the server starts without it.
"""

from __future__ import annotations

import secrets
import threading
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from edgec.fleet.access.identity import RANK, Role, as_role
from edgec.fleet.access.secrets import secret_hash
from edgec.fleet.errors import FleetError
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import SignInFlow

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # It asks for httpx2, which nothing else here needs.
    from authlib.integrations.httpx_client import OAuth2Client

TIMEOUT_S = 10.0
FLOW_S = 600.0
FRESH_S = 3600.0
MOST_FLOWS = 2000
LEEWAY_S = 60
ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "EdDSA"]


class SignInRefused(FleetError):
    """The provider, or what it says about the person, does not let them in; the message says why."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """How to reach the provider, and which role each group has.

    Attributes:
        issuer: its address; `/.well-known/openid-configuration` is below it.
        client_id: by which it knows this fleet.
        client_secret: with which the fleet authenticates; empty for a public client.
        roles: groups to roles. Who is in several has the strongest.
        claim: the claim with the person's groups.
        scopes: what to ask for, separated by blanks.
    """

    issuer: str
    client_id: str
    client_secret: str
    roles: Mapping[str, Role]
    claim: str = "groups"
    scopes: str = "openid profile email"


@dataclass(frozen=True, slots=True)
class Person:
    """Who signed in at the provider: `name` for people to read, `subject` the provider's own, which never changes."""

    name: str
    subject: str
    role: Role
    target: str
    session: str


class Provider:
    """One OpenID Connect provider; sign-ins that are on their way are in the database."""

    def __init__(self, database: Database, settings: ProviderSettings, callback: str) -> None:
        """`callback` is our address that the provider sends people back to."""
        self._database = database
        self._settings = settings
        self._callback = callback
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._fetched_at = 0.0

    def begin(self, target: str, confirms: str = "") -> tuple[str, str]:
        """Start a sign-in that leads to the local path `target`.

        Args:
            target: where the browser goes afterwards.
            confirms: the session (its hash) whose person has to sign in once more; empty for a new session.

        Returns:
            The provider's address to send the browser to, and the state, which the browser must bring back.

        Raises:
            SignInRefused: the provider does not answer, or too many sign-ins are on their way.
        """
        metadata = self._discover()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        extra = {"prompt": "login", "max_age": "0"} if confirms else {}
        with self._client() as client:
            url, _state = client.create_authorization_url(
                metadata["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier, **extra
            )
        with self._database.writing() as session:
            now = time.time()
            session.execute(delete(SignInFlow).where(SignInFlow.expires_at < now))
            if (session.scalar(select(func.count()).select_from(SignInFlow)) or 0) >= MOST_FLOWS:
                raise SignInRefused("too many sign-ins are on their way; try again in a few minutes")
            session.add(
                SignInFlow(
                    hash=secret_hash(state), nonce=nonce, verifier=verifier, target=target[:1024],
                    session=confirms, expires_at=now + FLOW_S,
                )
            )  # fmt: skip
        return cast("str", url), state

    def finish(self, state: str, code: str) -> Person:
        """Exchange the code that the provider sent the browser back with.

        Raises:
            SignInRefused: the state is not one of ours or is too old, the provider does not vouch for the person, or
                none of their groups has a role.
        """
        with self._database.writing() as session:
            flow = _take(session, state)
        metadata = self._discover()
        try:
            with self._client() as client:
                tokens = client.fetch_token(
                    metadata["token_endpoint"],
                    code=code,
                    code_verifier=flow.verifier,
                    grant_type="authorization_code",
                )
                claims = self._claims(metadata, tokens, flow)
                if self._settings.claim not in claims and "userinfo_endpoint" in metadata:
                    answer = client.get(metadata["userinfo_endpoint"], timeout=TIMEOUT_S)
                    answer.raise_for_status()
                    more = answer.json()
                    if more.get("sub") != claims["sub"]:
                        raise SignInRefused("the provider's user information is about someone else")
                    claims = {**more, **claims}
        except (httpx.HTTPError, AuthlibBaseError, JoseError, ValueError, KeyError) as error:
            raise SignInRefused(
                f"the provider does not confirm the sign-in ({type(error).__name__}: {error})"
            ) from error
        role = self._role(claims.get(self._settings.claim))
        shown = str(claims.get("preferred_username") or claims.get("email") or claims["sub"])
        if role is None:
            raise SignInRefused(f"none of the groups of {shown} has a role in this fleet")
        return Person(
            f"oidc:{shown}"[:128],
            f"{self._settings.issuer} {claims['sub']}"[:255],
            role,
            flow.target,
            flow.session,
        )

    def _claims(
        self, metadata: dict[str, Any], tokens: Mapping[str, Any], flow: SignInFlow
    ) -> dict[str, Any]:
        """The checked claims of an ID token."""
        text = str(tokens["id_token"])
        try:
            decoded = jwt.decode(text, self._keys(metadata), algorithms=ALGORITHMS)
        except (JoseError, ValueError):
            # The provider may have new keys.
            decoded = jwt.decode(text, self._keys(self._discover(again=True)), algorithms=ALGORITHMS)
        options: Any = {
            "iss": {"essential": True, "value": metadata["issuer"]},
            "aud": {"essential": True, "value": self._settings.client_id},
            "nonce": {"essential": True, "value": flow.nonce},
        }
        params = {
            "nonce": flow.nonce,
            "client_id": self._settings.client_id,
            "access_token": tokens.get("access_token"),
        }
        checked = CodeIDToken(decoded.claims, decoded.header, options, params)
        checked.validate(leeway=LEEWAY_S)
        if flow.session:
            began = flow.expires_at - FLOW_S
            if float(checked.get("auth_time") or 0) < began - LEEWAY_S:
                raise SignInRefused(
                    "the provider did not ask for a new sign-in (auth_time is missing or old)"
                )
        return dict(checked)

    def _role(self, groups: object) -> Role | None:
        names: Iterable[object] = groups if isinstance(groups, list) else [groups]
        found = [
            self._settings.roles[name]
            for name in names
            if isinstance(name, str) and name in self._settings.roles
        ]
        return max(found, key=lambda role: RANK[role], default=None)

    def _client(self) -> OAuth2Client:
        settings = self._settings
        return OAuth2Client(
            settings.client_id, settings.client_secret or None, scope=settings.scopes, redirect_uri=self._callback,
            code_challenge_method="S256", timeout=TIMEOUT_S,
            token_endpoint_auth_method="client_secret_basic" if settings.client_secret else "none",
        )  # fmt: skip

    def _discover(self, *, again: bool = False) -> dict[str, Any]:
        """The provider's metadata with its keys under `keys`, at most an hour old."""
        with self._lock:
            if self._metadata and not again and time.monotonic() - self._fetched_at < FRESH_S:
                return self._metadata
            base = self._settings.issuer.rstrip("/")
            try:
                with httpx.Client(timeout=TIMEOUT_S, follow_redirects=False) as client:
                    found = client.get(f"{base}/.well-known/openid-configuration").raise_for_status().json()
                    if str(found["issuer"]).rstrip("/") != base:
                        raise SignInRefused(
                            f"{base} says that it is {found['issuer']}: set EDGEC_FLEET_OIDC_ISSUER"
                        )
                    found["keys"] = client.get(found["jwks_uri"]).raise_for_status().json()
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                raise SignInRefused(
                    f"the identity provider {base} does not answer ({type(error).__name__})"
                ) from error
            self._metadata, self._fetched_at = found, time.monotonic()
            return self._metadata

    @staticmethod
    def _keys(metadata: Mapping[str, Any]) -> KeySet:
        return KeySet.import_key_set(metadata["keys"])


def _take(session: Session, state: str) -> SignInFlow:
    flow = session.get(SignInFlow, secret_hash(state), with_for_update=True)
    if flow is None or flow.expires_at < time.time():
        raise SignInRefused("this sign-in is unknown, was used already, or took longer than ten minutes")
    session.delete(flow)
    return flow


def parse_roles(text: str) -> dict[str, Role]:
    """The roles of groups, from `GROUP=ROLE` items with commas between them.

    Raises:
        ValueError: an item is not of this form.
    """
    found: dict[str, Role] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        group, _, role = item.rpartition("=")
        if not group or role not in ("viewer", "operator", "admin"):
            raise ValueError(f"{item!r} is not of the form GROUP=ROLE, with viewer, operator or admin")
        found[group.strip()] = as_role(role)
    return found
