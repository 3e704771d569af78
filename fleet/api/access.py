"""Access tokens under `/api/v1`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy import select

from edgec.fleet.access.tokens import NewAccessToken, issue_access_token, revoke_access_token
from edgec.fleet.api.context import Admin, Server, SureAdmin, page
from edgec.fleet.broker.users import NewMqttUser
from edgec.fleet.store.tables import AccessToken, MqttUser

router = APIRouter(prefix="/api/v1", tags=["access"])


def _access_token(row: AccessToken) -> dict[str, Any]:
    fields = ("name", "role", "models", "scopes", "created_at", "expires_at", "revoked_at")
    return {field: getattr(row, field) for field in fields}


@router.post("/access-tokens", status_code=201)
def make_access_token(server: Server, who: SureAdmin, body: NewAccessToken) -> dict[str, Any]:
    """Create an access token. The secret is in this response only."""
    with server.database.writing() as session:
        row, secret = issue_access_token(session, who.name, body)
        return _access_token(row) | {"token": secret}


@router.get("/access-tokens")
def list_access_tokens(server: Server, _who: Admin) -> dict[str, Any]:
    """List access tokens, without their secrets."""
    with server.database.reading() as session:
        return page(
            [_access_token(row) for row in session.scalars(select(AccessToken).order_by(AccessToken.name))],
            None,
        )


def _mqtt_user(row: MqttUser) -> dict[str, Any]:
    return {field: getattr(row, field) for field in ("name", "reads", "writes", "created_at", "created_by")}


@router.post("/mqtt-users", status_code=201)
def make_mqtt_user(server: Server, who: SureAdmin, body: NewMqttUser) -> dict[str, Any]:
    """Create a user of the broker that is no device, such as Home Assistant. Its password is in this response only."""
    row, password = server.create_mqtt_user(who.name, body)
    reach = server.mqtt_access
    where = {"host": reach.host, "port": reach.port, "tls": reach.tls}
    return _mqtt_user(row) | {"password": password, "broker": where}


@router.get("/mqtt-users")
def list_mqtt_users(server: Server, _who: Admin) -> dict[str, Any]:
    """List the users of the broker that are no devices, and their rights."""
    with server.database.reading() as session:
        return page(
            [_mqtt_user(row) for row in session.scalars(select(MqttUser).order_by(MqttUser.name))], None
        )


@router.delete("/mqtt-users/{name}", status_code=204)
def delete_mqtt_user(server: Server, who: SureAdmin, name: str) -> None:
    """Remove a user of the broker; its connections are closed."""
    server.delete_mqtt_user(who.name, name)


@router.delete("/access-tokens/{name}", status_code=204)
def delete_access_token(server: Server, who: SureAdmin, name: str) -> None:
    """Revoke a token, and sign out every browser that signed in with it."""
    with server.database.writing() as session:
        revoke_access_token(session, who.name, name)
