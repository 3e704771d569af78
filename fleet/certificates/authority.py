"""The fleet's certificate authority: a generated ECDSA P-256 key, or an imported one.

Certificates follow RFC 5280: devices get clientAuth only, with their name as the common name; servers get serverAuth
with their host names. Revocations are recorded in the database; the revocation list is generated from it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgec.fleet.errors import FleetError
from edgec.fleet.problems import Problem
from edgec.fleet.store.files import replace_file
from edgec.protocol.errors import ProtocolError
from edgec.protocol.names import check_name

KEY, CERTIFICATE = "ca.key", "ca.pem"
EARLY = timedelta(minutes=5)
"""Certificates are valid from a little before they are issued: devices' clocks are not exact."""
CLAIM = "edgec claim"
MAX_REQUEST = 8192
_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Issued:
    """An issued certificate.

    Attributes:
        pem: the certificate.
        serial: its serial number, hexadecimal.
        not_before: start of its validity, Unix seconds.
        not_after: end of its validity, Unix seconds.
    """

    pem: str
    serial: str
    not_before: float
    not_after: float


def serial_of(certificate: x509.Certificate) -> str:
    """The serial number as the database stores it."""
    return f"{certificate.serial_number:x}"


class Authority:
    """A CA's certificate and key."""

    def __init__(self, certificate: x509.Certificate, key: _PrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @property
    def pem(self) -> str:
        """The CA's certificate as PEM, for clients that have to trust it."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def certificate(self) -> x509.Certificate:
        """The CA's certificate."""
        return self._certificate

    @staticmethod
    def load(folder: Path) -> Authority | None:
        """Load the authority in `folder`; None if there is none.

        Raises:
            FleetError: its files cannot be read or do not belong together.
        """
        if not (folder / CERTIFICATE).exists():
            return None
        return _read(folder / CERTIFICATE, folder / KEY)

    @staticmethod
    def create(folder: Path, name: str, days: int) -> Authority:
        """Create a key and a self-signed certificate in `folder`.

        Raises:
            FleetError: there is one already.
        """
        _refuse_present(folder)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - EARLY)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        authority = Authority(certificate, key)
        authority._save(folder)
        return authority

    @staticmethod
    def import_from(folder: Path, certificate: Path, key: Path) -> Authority:
        """Import a CA (or an intermediate one) from PEM files.

        Raises:
            FleetError: there is one already, or the files are not those of a CA.
        """
        _refuse_present(folder)
        authority = _read(certificate, key)
        authority._save(folder)
        return authority

    def _save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(folder / KEY, key_pem(self._key), copied=True)
        replace_file(folder / CERTIFICATE, self.pem.encode(), copied=True)

    def device(self, request: str, name: str, valid: timedelta) -> Issued:
        """Issue a device's certificate for the key of its request (PEM); the subject of the request is ignored.

        Raises:
            Problem: 422 for an invalid request.
        """
        return self._issue(_public_key(request), name, valid, [ExtendedKeyUsageOID.CLIENT_AUTH])

    def claim(self, valid: timedelta) -> tuple[Issued, str]:
        """Issue a claim certificate with its key (PEM): installed on many devices, valid for enrolment only."""
        key = ec.generate_private_key(ec.SECP256R1())
        # Not clientAuth: a claim opens no connection.
        issued = self._issue(key.public_key(), CLAIM, valid, [ExtendedKeyUsageOID.CODE_SIGNING])
        return issued, key_pem(key).decode()

    def server(self, hosts: list[str], valid: timedelta) -> tuple[Issued, str]:
        """Issue a server's certificate for host names and addresses, with its key (PEM)."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        usages = [ExtendedKeyUsageOID.SERVER_AUTH]
        return self._issue(key.public_key(), hosts[0][:64], valid, usages, names), key_pem(key).decode()

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        name: str,
        valid: timedelta,
        usages: list[x509.ObjectIdentifier],
        names: list[x509.GeneralName] | None = None,
    ) -> Issued:
        now = datetime.now(UTC)
        until = min(now + valid, self._certificate.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - EARLY)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        pem = made.public_bytes(serialization.Encoding.PEM).decode()
        return Issued(pem, serial_of(made), (now - EARLY).timestamp(), until.timestamp())

    def revocation_list(self, revoked: list[tuple[str, float]], valid: timedelta) -> bytes:
        """A CRL (PEM) of serial numbers and the times of their revocation."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - EARLY)
            .next_update(now + valid)
        )
        for serial, at in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16))
            builder = builder.add_revoked_certificate(
                entry.revocation_date(datetime.fromtimestamp(at, UTC)).build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def check_claim(self, claim: str, signature: bytes, request: str) -> str:
        """Check that `claim` is a currently valid claim certificate of this authority, and that its key signed
        `request`; returns its serial number.

        Raises:
            Problem: 403.
        """
        refused = Problem(403, "Claim refused", "The claim certificate is not this fleet's, or has expired.")
        if len(claim) > MAX_REQUEST:
            raise refused
        try:
            certificate = x509.load_pem_x509_certificate(claim.encode())
            certificate.verify_directly_issued_by(self._certificate)
            key = certificate.public_key()
            names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            if not isinstance(key, ec.EllipticCurvePublicKey) or [item.value for item in names] != [CLAIM]:
                raise refused
            key.verify(signature, request.encode(), ec.ECDSA(hashes.SHA256()))
        except (ValueError, TypeError, InvalidSignature) as error:
            raise refused from error
        if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
            raise refused
        return serial_of(certificate)


def peer_identity(der: bytes) -> tuple[str, str] | None:
    """Serial number and device name of a certificate that a TLS library has verified; None if it is not a
    device's."""
    certificate = x509.load_der_x509_certificate(der)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        return None
    try:
        return serial_of(certificate), check_name(str(names[0].value))
    except ProtocolError:
        return None


def key_pem(key: _PrivateKey) -> bytes:
    """A private key as unencrypted PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_key(request: str) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    bad = Problem(422, "Bad certificate request", "csr is not a PKCS #10 request signed with its own key.")
    if len(request) > MAX_REQUEST:
        raise bad
    try:
        csr = x509.load_pem_x509_csr(request.encode())
        key = csr.public_key()
        valid = csr.is_signature_valid
    except (ValueError, TypeError) as error:
        raise bad from error
    strong = isinstance(key, ec.EllipticCurvePublicKey) or (
        isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192
    )
    if not valid or not strong:
        raise bad
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    return key


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _refuse_present(folder: Path) -> None:
    if (folder / CERTIFICATE).exists():
        raise FleetError(f"{folder / CERTIFICATE} exists already: every certificate in use depends on it")


def _read(certificate: Path, key: Path) -> Authority:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise FleetError(f"cannot read the authority's {certificate} and {key}: {error}") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise FleetError(f"{key} is neither an RSA nor an elliptic-curve key")
    if private.public_key() != found.public_key():
        raise FleetError(f"{key} is not the key of {certificate}")
    try:
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is None or not constraints.ca:
        raise FleetError(f"{certificate} is not the certificate of an authority (basicConstraints CA:TRUE)")
    return Authority(found, private)
