"""Enrolment: `POST /api/v1/enroll` exchanges a one-time token for a device's own credentials."""

from __future__ import annotations

from pydantic import Field

from edgec.protocol.codec import Message
from edgec.protocol.names import Name

ENROLL_PATH = "/api/v1/enroll"


class EnrollRequest(Message):
    """The request that a device sends once."""

    token: str = Field(default="", max_length=512)
    """A one-time token; empty when the device enrols with a claim certificate instead."""
    device: Name | None = None
    """The requested name; the server may assign another, and assigns one when this is absent."""
    target: str = ""
    agent_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    csr: str | None = Field(default=None, max_length=8192)
    """PKCS #10 request (PEM) for the device's own certificate; the private key never leaves the device."""
    claim: str | None = Field(default=None, max_length=8192)
    """A claim certificate (PEM)."""
    claim_signature: str | None = Field(default=None, max_length=1024)
    """ECDSA-SHA-256 signature of `csr` with the claim's key, base64: a copied certificate alone cannot enrol."""


class MqttAccess(Message):
    """How to reach the broker."""

    host: str
    port: int = Field(ge=1, le=65535)
    username: str | None = None
    password: str | None = None
    tls: bool = False
    ca_pem: str | None = None


class RegistryAccess(Message):
    """How to reach the registry and, on the same server, captures and trust metadata."""

    url: str
    token: str | None = None


class EnrollResponse(Message):
    """The response; stored with mode 0600 in the agent's state folder."""

    device: Name
    fleet: Name
    mqtt: MqttAccess
    registry: RegistryAccess
    api_url: str | None = None
    certificate: str | None = None
    """The device's certificate (PEM), if it requested one and the fleet has a certificate authority."""
    ca_pem: str | None = None
    """The authority's own certificate (PEM), which signs those of the fleet's servers."""
    trusted_root: str | None = None
    """The initial TUF root metadata as text, if the fleet signs its models."""
