"""Enrolment: ``POST /api/v1/enroll`` turns a one-time token into a device's own credentials."""

from __future__ import annotations

from pydantic import Field

from edgec.protocol.codec import Message
from edgec.protocol.names import Name

ENROLL_PATH = "/api/v1/enroll"


class EnrollRequest(Message):
    """What a device sends once."""

    token: str = Field(default="", max_length=512)
    """A one-time token; empty when a claim certificate stands for it."""
    device: Name | None = None
    """A wish; the server may give another name, and gives one when there is none."""
    target: str = ""
    agent_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    csr: str | None = Field(default=None, max_length=8192)
    """PKCS #10 request (PEM) for the device's own certificate; its key stays on the device."""
    claim: str | None = Field(default=None, max_length=8192)
    """A claim certificate (PEM)."""
    claim_signature: str | None = Field(default=None, max_length=1024)
    """ECDSA with SHA-256 of ``csr`` by the claim's key, base64: whoever only saw the certificate cannot enrol."""


class MqttAccess(Message):
    """How to reach the broker."""

    host: str
    port: int = Field(ge=1, le=65535)
    username: str | None = None
    password: str | None = None
    tls: bool = False
    ca_pem: str | None = None


class RegistryAccess(Message):
    """How to reach the registry, and the captures and trust metadata beside it."""

    url: str
    token: str | None = None


class EnrollResponse(Message):
    """What it gets; kept with mode 0600 in the agent's state folder."""

    device: Name
    fleet: Name
    mqtt: MqttAccess
    registry: RegistryAccess
    api_url: str | None = None
    certificate: str | None = None
    """The device's certificate (PEM), where it asked for one and the fleet has an authority."""
    ca_pem: str | None = None
    """The authority's own: what the fleet's servers show is signed by it."""
    trusted_root: str | None = None
    """The first TUF root metadata, as text, where the fleet signs its models."""
