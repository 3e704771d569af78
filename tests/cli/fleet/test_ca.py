"""`edgec fleet ca`; certificates at work are in `tests/fleet/certificates`."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from tests.cli.conftest import Edgec


def test_an_authority_issues_a_certificate_for_a_server(edgec: Edgec, tmp_path: Path) -> None:
    missing = edgec(
        "fleet", "ca", "server", "mqtt.example.org", "--out", "tls", "--data", "data", cwd=tmp_path
    )
    assert missing.returncode == 1
    assert "edgec fleet ca init --data data" in missing.stderr
    assert edgec("fleet", "ca", "init", "--data", "data", "--name", "plant", cwd=tmp_path).returncode == 0
    done = edgec(
        "fleet",
        "ca",
        "server",
        "mqtt.example.org",
        "10.0.0.7",
        "--out",
        "tls",
        "--data",
        "data",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tls" / "server.key").stat().st_mode & 0o077 == 0
    chain = x509.load_pem_x509_certificates((tmp_path / "tls" / "server.pem").read_bytes())
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mqtt.example.org"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]
    chain[0].verify_directly_issued_by(
        x509.load_pem_x509_certificate((tmp_path / "tls" / "ca.pem").read_bytes())
    )


def test_a_certificate_without_its_key_is_no_authority(edgec: Edgec, tmp_path: Path) -> None:
    done = edgec("fleet", "ca", "init", "--data", "data", "--certificate", "ca.pem", cwd=tmp_path)
    assert done.returncode == 2
    assert "--certificate and --key must be given together" in done.stderr
    assert not (tmp_path / "data").exists()
