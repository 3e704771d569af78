"""Settings of a fleet server: flags of `edgec fleet serve`, else `EDGEC_FLEET_…` variables, else defaults."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edgec.fleet.errors import FleetError
from edgec.protocol.masking import mask
from edgec.protocol.topics import DISCOVERY_PREFIX

PREFIX = "EDGEC_FLEET_"
RENAMED = {"telemetry_kept_s": "samples_kept_s"}
"""Present names of settings to their names of version 0.1, whose variables are still read."""


class Settings(BaseModel):
    """All settings of a server, including everything that differs between one machine and many.

    Times are in seconds, sizes in bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path = Field(description="Folder for blobs, the SQLite database and the server's keys.")
    host: str = Field("127.0.0.1", description="Address to listen on for HTTP.")
    port: int = Field(8600, ge=0, le=65535, description="HTTP port; 0 takes a free one.")
    public_url: str | None = Field(
        None, description="Address that devices reach this server at, if not host and port."
    )
    fleet: str = Field(
        "default", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Name of the fleet in MQTT topics."
    )
    database: str | None = Field(None, description="SQLAlchemy URL; SQLite in the data folder if not given.")
    blobs: str | None = Field(
        None, description="s3://bucket/prefix for artifacts and pictures; the data folder if not given."
    )
    s3_endpoint: str | None = Field(
        None, description="Address of an S3-compatible store; Amazon's own if not given."
    )
    s3_redirect: bool = Field(
        False, description="Redirect downloads to the store by signed links instead of passing them through."
    )
    mqtt: str | None = Field(
        None, description="mqtt[s]://user:password@host:port of an external broker; embedded if not given."
    )
    mqtt_host: str | None = Field(
        None, description="Address the embedded broker listens on; the HTTP host if not given."
    )
    mqtt_port: int = Field(
        1883, ge=0, le=65535, description="Port of the embedded broker; 0 takes a free one."
    )
    mqtt_public: str | None = Field(None, description="host:port of the broker as devices see it.")
    mqtt_public_tls: bool = Field(False, description="Devices reach the external broker over TLS.")
    mqtt_shared: str | None = Field(
        None,
        pattern=r"^[a-zA-Z0-9._-]{1,64}$",
        description="Group of a shared subscription, so that several processes receive at the same time.",
    )
    mqtt_sessions: int = Field(
        4, ge=1, le=64, description="Number of sessions in that group, shared out among the processes."
    )
    tls: bool = Field(False, description="Serve HTTPS and MQTT over TLS, with the fleet's own certificates.")
    tls_certificate: Path | None = Field(None, description="Certificate chain (PEM) to serve with instead.")
    tls_key: Path | None = Field(None, description="Its key (PEM).")
    tls_names: str = Field("", description="Further host names of this server, separated by commas.")
    certificate_valid_s: float = Field(
        90 * 86400.0, gt=0, le=3660 * 86400, description="How long a device's certificate is valid."
    )
    mqtt_files: Path | None = Field(
        None, description="Folder with a Mosquitto broker's password and access files, kept up to date."
    )
    mqtt_reload: str | None = Field(
        None, description="Command that makes that broker reload them, such as 'pkill -HUP mosquitto'."
    )
    discovery_prefix: str = Field(
        DISCOVERY_PREFIX, pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=100,
        description="Where Home Assistant looks for discovery messages, which devices may publish.",
    )  # fmt: skip
    auto_accept: bool = Field(
        True, description="Accept a device with a valid token at once, else hold it as pending."
    )
    max_upload: int = Field(8 << 30, gt=0, description="Largest blob that a push may send.")
    events_kept_s: float = Field(30 * 86400.0, gt=0, description="How long detections are kept.")
    telemetry_kept_s: float = Field(
        7 * 86400.0, gt=0, description="How long telemetry is kept before hourly roll-ups replace it."
    )
    captures_quota: int = Field(10 << 30, gt=0, description="Bytes of captures that are stored in total.")
    captures_device_quota: int = Field(
        1 << 30, gt=0, description="Bytes of captures that are stored per device."
    )
    tick_s: float = Field(1.0, gt=0, description="Interval of the rollout engine.")
    secure_cookies: bool = Field(
        False,
        description="Send the session cookie over HTTPS only, as it is with --tls or an https public URL.",
    )
    session_idle_s: float = Field(
        3600.0, gt=0, description="A browser is signed out when nobody used it for this long."
    )
    session_s: float = Field(
        12 * 3600.0, gt=0, description="A browser is signed out after this time in any case."
    )
    confirmed_s: float = Field(
        300.0,
        gt=0,
        description="How long a person who entered the token again may do what cannot be taken back.",
    )
    lockout_failures: int = Field(
        10, ge=1, description="Failed attempts (to sign in, with a token, to enrol) that lock an address out."
    )
    lockout_window_s: float = Field(300.0, gt=0, description="Time within which they are counted.")
    lockout_s: float = Field(900.0, gt=0, description="How long an address is locked out.")
    oidc_issuer: str | None = Field(
        None, description="Address of an OpenID Connect provider, with which people sign in to the dashboard."
    )
    oidc_client_id: str = Field("", description="By which the provider knows this fleet.")
    oidc_client_secret: str = Field("", description="Its secret; empty for a public client.")
    oidc_roles: str = Field(
        "", description="Roles of the provider's groups: GROUP=ROLE, separated by commas. Others are refused."
    )
    oidc_groups_claim: str = Field("groups", description="The claim that lists a person's groups.")
    oidc_scopes: str = Field(
        "openid profile email", description="What the provider is asked for, separated by blanks."
    )
    oidc_name: str = Field("single sign-on", description="What the sign-in page calls the provider.")
    trusted_proxies: str = Field(
        "127.0.0.1,::1",
        description="Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, with commas.",
    )
    metrics_from: str = Field(
        "127.0.0.0/8,::1/128",
        description="Networks that may read /metrics without a token, separated by commas; empty for none.",
    )

    @field_validator("blobs")
    @classmethod
    def _blobs_url(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme != "s3" or not parts.netloc:
                raise ValueError("must look like s3://bucket or s3://bucket/prefix")
        return value

    @field_validator("oidc_issuer")
    @classmethod
    def _https(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            here = parts.hostname in ("localhost", "127.0.0.1", "::1")
            if not parts.hostname or (parts.scheme != "https" and not (here and parts.scheme == "http")):
                raise ValueError("must be an https address")
        return value

    @field_validator("oidc_roles")
    @classmethod
    def _roles(cls, value: str) -> str:
        for item in filter(None, map(str.strip, value.split(","))):
            if not re.fullmatch(r".+=(viewer|operator|admin)", item):
                raise ValueError(f"{item!r} is not of the form GROUP=ROLE, with viewer, operator or admin")
        return value

    @field_validator("metrics_from")
    @classmethod
    def _networks(cls, value: str) -> str:
        for text in filter(None, map(str.strip, value.split(","))):
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ValueError(f"{text!r} is not a network such as 10.0.0.0/8") from error
        return value

    @field_validator("mqtt")
    @classmethod
    def _mqtt_url(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
                raise ValueError("must look like mqtt://user:password@host:1883 or mqtts://host:8883")
        return value

    def reads_metrics(self, address: str) -> bool:
        """Whether `address` may read /metrics without a token."""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
        texts = filter(None, map(str.strip, self.metrics_from.split(",")))
        return any((mapped or found) in ipaddress.ip_network(text) for text in texts)

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in use."""
        return self.database or f"sqlite:///{self.data / 'fleet.db'}"


def load_settings(**flags: object) -> Settings:
    """Settings from `flags` (those that are not None), then the environment, then defaults.

    Raises:
        FleetError: a value is invalid, or a variable is none of ours; the message names the setting.
    """
    _refuse_unknown(os.environ)
    values: dict[str, object] = {}
    for name in Settings.model_fields:
        for variable in (RENAMED.get(name, ""), name):
            if variable and (value := os.environ.get(PREFIX + variable.upper())) is not None:
                values[name] = value
    values |= {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise FleetError(
            f"--{name.replace('_', '-')} (or {PREFIX}{name.upper()}): {first['msg']}, got {mask(repr(first['input']))}"
        ) from error


def _refuse_unknown(environment: Iterable[str]) -> None:
    """Refuse variables with our prefix that are no settings: a misspelt one would be ignored.

    Raises:
        FleetError: names the variable and the nearest setting.
    """
    known = [PREFIX + name.upper() for name in (*Settings.model_fields, *RENAMED.values())]
    for variable in environment:
        if variable.startswith(PREFIX) and variable not in known:
            near = difflib.get_close_matches(variable, known, 1, 0.6)
            advice = (
                f"; did you mean {near[0]}?" if near else "; the settings are listed in docs/fleet-setup.md"
            )
            raise FleetError(f"{variable} is not a setting of the fleet server{advice}")


def read_settings_file(path: Path) -> dict[str, str]:
    """Variables from a file with a `NAME=VALUE` a line, as systemd and Docker read them; `#` begins a comment.

    Raises:
        FleetError: the file cannot be read, or a line is not of this form.
    """
    try:
        if path.stat().st_mode & 0o007:
            raise FleetError(f"the settings {path} contain passwords and all can read them: chmod 600 {path}")
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError(f"the settings {path} cannot be read: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name.strip()):
            raise FleetError(f"{path}, line {number}: {line.strip()!r} is not of the form NAME=VALUE")
        value = value.strip()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        found[name.strip()] = value[1:-1] if quoted else value
    return found
