"""The device's certificate: its key is generated here and never leaves; it is renewed before it expires."""

from __future__ import annotations

import base64
import logging
import os
import random
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path

import certifi
import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgec.device_agent.errors import EnrollError, StateError
from edgec.device_agent.process.causes import cause_of
from edgec.device_agent.process.statefile import StateFile
from edgec.protocol.enrol import EnrollRequest, EnrollResponse

KEY, NEXT_KEY, CERTIFICATE, AUTHORITY, BUNDLE = (
    "device.key", "device-next.key", "device.pem", "fleet-ca.pem", "trusted.pem",
)  # fmt: skip
SEALED = "certificates.json"
"""Key, certificate and authority with a checksum and a copy: the files that OpenSSL reads have neither."""
_MODES = {KEY: 0o600, CERTIFICATE: 0o644, AUTHORITY: 0o644}
RENEW_PATH = "/api/v1/certificates/renew"
RENEW_AT = 2 / 3
"""Share of a certificate's lifetime after which it is renewed."""
RETRY_S = 600.0
log = logging.getLogger("certificates")


def request_for(state: Path, device: str | None, *, key_name: str = KEY) -> str:
    """Return a request (PKCS #10, PEM) for the key in the state folder, which is generated if there is none.

    Raises:
        EnrollError: the key cannot be read or written.
    """
    path = state / key_name
    try:
        own_folder(state)
        if not path.exists():
            _write(path, _pem(ec.generate_private_key(ec.SECP256R1())), 0o600)
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise EnrollError(f"the device's key {path} cannot be used: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise EnrollError(f"the device's key {path} is not an elliptic-curve key; remove it")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device or "device")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def with_claim(request: EnrollRequest, folder: Path) -> EnrollRequest:
    """Return the request with the claim certificate of `folder` (claim.pem, claim.key) and its signature.

    Raises:
        EnrollError: the files cannot be used.
    """
    try:
        certificate = (folder / "claim.pem").read_text()
        key = serialization.load_pem_private_key((folder / "claim.key").read_bytes(), None)
    except (OSError, ValueError) as error:
        raise EnrollError(f"the claim certificate in {folder} cannot be used: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise EnrollError(f"{folder / 'claim.key'} is not an elliptic-curve key")
    signature = key.sign((request.csr or "").encode(), ec.ECDSA(hashes.SHA256()))
    return request.model_copy(
        update={"claim": certificate, "claim_signature": base64.b64encode(signature).decode()}
    )


def store(state: Path, answer: EnrollResponse) -> None:
    """Store the certificates that enrolment returned.

    Raises:
        EnrollError: the folder cannot be written.
    """
    try:
        if answer.certificate:
            _write(state / CERTIFICATE, answer.certificate.encode(), 0o644)
        if answer.ca_pem:
            _write(state / AUTHORITY, answer.ca_pem.encode(), 0o644)
        _seal(state)
    except OSError as error:
        raise EnrollError(f"the certificate cannot be stored in {state}: {error.strerror}") from error


def enrolled(state: Path) -> bool:
    """Return whether the folder has a certificate from an enrolment."""
    return (state / CERTIFICATE).exists()


def files_of(state: Path) -> tuple[Path, Path] | None:
    """Return certificate and key to connect with; `None` if there are none."""
    certificate, key = state / CERTIFICATE, state / KEY
    return (certificate, key) if certificate.exists() and key.exists() else None


def own_folder(state: Path) -> None:
    """Create the state folder, which holds credentials, or shut others out of one that is ours."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = state.stat()
    if found.st_mode & 0o077 and found.st_uid == os.getuid():
        state.chmod(0o700)


def trust(state: Path, authority: Path | None = None) -> None:
    """Make this process and its children trust the fleet's authority, too.

    httpx and OpenSSL read the bundle that `SSL_CERT_FILE` names."""
    own = authority or state / AUTHORITY
    if not own.exists():
        return
    public = Path(os.environ.get("SSL_CERT_FILE") or certifi.where())
    bundle = state / BUNDLE
    if public == bundle:
        return
    own_folder(state)
    _write(bundle, public.read_bytes() + b"\n" + own.read_bytes(), 0o644)
    os.environ["SSL_CERT_FILE"] = str(bundle)


class Renewer:
    """Renews the certificate when two thirds of its lifetime are over."""

    def __init__(self, state: Path, server: str, token: str | None) -> None:
        self._state, self._server, self._token = state, server.rstrip("/"), token
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="certificates", daemon=True)

    def start(self) -> None:
        """Start, if there is a certificate."""
        if files_of(self._state):
            self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()

    def _run(self) -> None:
        while True:
            wait = self.due_in()
            # A fleet that was enrolled within an hour must not renew within a minute.
            if self._stopping.wait(max(wait, 0.0) * random.uniform(0.9, 1.0)):
                return
            try:
                self.renew()
            except (httpx.HTTPError, EnrollError, OSError, ValueError, KeyError) as error:
                log.warning("the certificate is not renewed yet: %s", cause_of(error))
                left = self.due_in(1.0)
                if self._stopping.wait(min(RETRY_S, max(left / 10, 1.0)) * random.uniform(0.5, 1.0)):
                    return

    def due_in(self, share: float = RENEW_AT) -> float:
        """Return the seconds until `share` of the certificate's lifetime is over."""
        found = x509.load_pem_x509_certificate((self._state / CERTIFICATE).read_bytes())
        life = found.not_valid_after_utc - found.not_valid_before_utc
        return (found.not_valid_before_utc + life * share - datetime.now(UTC)).total_seconds()

    def renew(self) -> None:
        """Request the next certificate, for a new key; both replace the current ones once both are on disk.

        Raises:
            EnrollError: the server refused, or the files cannot be used.
            httpx.HTTPError: it cannot be reached.
        """
        state = self._state
        request = request_for(state, None, key_name=NEXT_KEY)
        context = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
        present = files_of(state)
        if present is not None and self.due_in(1.0) > 0:
            context.load_cert_chain(*present)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        answer = httpx.post(
            self._server + RENEW_PATH, json={"csr": request}, headers=headers, verify=context, timeout=30
        )
        if answer.status_code != 200:
            raise EnrollError(f"{self._server} refused ({answer.status_code}): {answer.text[:200]}")
        made = x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
        key = serialization.load_pem_private_key((state / NEXT_KEY).read_bytes(), None)
        if made.public_key() != key.public_key():
            raise EnrollError("the server's certificate is for another key")
        # Sealed first: whatever of the files a crash leaves is written again from there.
        _seal(state, certificate=answer.json()["certificate"], key=(state / NEXT_KEY).read_text())
        _write(state / CERTIFICATE, answer.json()["certificate"].encode(), 0o644)
        (state / NEXT_KEY).replace(state / KEY)
        log.info("the certificate is renewed until %s", made.not_valid_after_utc.isoformat())


def repair(state: Path) -> str:
    """Write the files again that are damaged, gone or of an interrupted renewal; returns what was done."""
    loaded = _sealed(state).load()
    if loaded.problem:
        log.error("the copies of the certificates: %s", loaded.problem)
    if not loaded.data:
        _finish_renewal(state)
        if files_of(state):
            _seal(state)
        return ""
    mended = []
    for name, text in loaded.data.items():
        path = state / name
        present = path.read_bytes() if path.exists() else b""
        # Another authority may have been put there on purpose; only one that cannot be read is replaced.
        if present == text.encode() or (name == AUTHORITY and _readable(present)):
            continue
        _write(path, text.encode(), _MODES[name])
        mended.append(name)
    if mended:
        log.error("written again from their copies: %s", ", ".join(mended))
    return ", ".join(mended)


def _readable(pem: bytes) -> bool:
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError:
        return False
    return True


def _finish_renewal(state: Path) -> None:
    """Finish a renewal that a crash interrupted between certificate and key; needed where nothing is sealed yet."""
    certificate, following = state / CERTIFICATE, state / NEXT_KEY
    if not certificate.exists() or not following.exists():
        return
    wanted = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    key = serialization.load_pem_private_key(following.read_bytes(), None)
    if key.public_key() == wanted:
        following.replace(state / KEY)


def _sealed(state: Path) -> StateFile:
    return StateFile(state / SEALED, mode=0o600)


def _seal(state: Path, *, certificate: str | None = None, key: str | None = None) -> None:
    """Store the present files, or these in their place, with a checksum and a copy."""
    given = {CERTIFICATE: certificate, KEY: key}
    texts = {
        name: given.get(name) or (state / name).read_text()
        for name in _MODES
        if given.get(name) or (state / name).exists()
    }
    try:
        _sealed(state).save(texts)
    except StateError as error:
        log.warning("the certificates have no copy: %s", error)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
