"""Root and targets keys on a PKCS#11 token: SoftHSM, which behaves as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgec.benchmarks.fleet.backends import BackendMissing, program
from edgec.fleet.errors import FleetError
from edgec.fleet.trust.token import TokenUri
from tests import preloaded
from tests.fleet.artifacts import make_artifact
from tests.fleet.servers import FleetServer

PIN = "314159"
MAKE = """
import sys, pkcs11
from pkcs11.util.ec import encode_named_curve_parameters
token = pkcs11.lib(sys.argv[1]).get_token(token_label="fleet")
with token.open(rw=True, user_pin=sys.argv[2]) as session:
    curve = encode_named_curve_parameters("secp256r1")
    for number in (1, 2, 3):
        made = session.create_domain_parameters(pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True)
        made.generate_keypair(store=True, id=bytes([number]), label=f"key {number}")
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def token(tmp_path: Path) -> tuple[str, dict[str, str]]:
    """The driver of a token called `fleet` with three keys, and the environment that it needs."""
    try:
        tool = program("softhsm2-util", "softhsm2")
    except BackendMissing as error:
        pytest.skip(str(error))
    [driver, *_] = [
        *Path("/usr/lib").glob("softhsm/libsofthsm2.so"),
        *Path("/usr/lib").rglob("libsofthsm2.so"),
    ]
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(
        f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    environment = {"SOFTHSM2_CONF": str(config), "EDGEC_TOKEN_PIN": PIN}
    env = os.environ | environment
    make = [tool, "--init-token", "--free", "--label", "fleet", "--so-pin", "271828", "--pin", PIN]
    subprocess.run(make, check=True, capture_output=True, env=env)
    subprocess.run([sys.executable, "-c", MAKE, str(driver), PIN], check=True, env=env)
    return str(driver), environment


@pytest.fixture
def edgec(own_server: FleetServer, tmp_path: Path, token: tuple[str, dict[str, str]]) -> Run:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | token[1] | {"HOME": str(tmp_path), "COLUMNS": "200"} | environment
        env |= {"EDGEC_SERVER": own_server.url, "EDGEC_TOKEN": own_server.token}
        return preloaded.run(*arguments, env=env)

    return run


def test_keys_that_stay_on_a_token_sign_and_rotate(
    edgec: Run, token: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    driver, _environment = token
    keys = tmp_path / "keys"

    def uri(number: int) -> str:
        return f"pkcs11:token=fleet;id=%0{number}?module-path={driver}"

    both = ("--root-uri", uri(1), "--targets-uri", uri(2), "--keys", str(keys))
    wrong = edgec("fleet", "keys", "init", *both, EDGEC_TOKEN_PIN="000000")
    assert (wrong.returncode, "the token 'fleet'" in wrong.stderr) == (1, True), wrong.stderr
    made = edgec("fleet", "keys", "init", "--root-keys", "2", *both)
    assert made.returncode == 0, made.stderr
    assert sorted(path.name for path in keys.iterdir()) == ["root-1.token", "root-2.pem", "targets-1.token"]
    assert "PRIVATE" not in (keys / "targets-1.token").read_text()
    make_artifact(tmp_path / "a.edge", "held", "1")
    assert edgec("push", str(tmp_path / "a.edge")).returncode == 0
    signed = edgec("fleet", "keys", "sign", "held:1", "--keys", str(keys))
    assert signed.returncode == 0, signed.stderr
    assert "models/held/1/x86-64-v3" in signed.stdout
    rotated = edgec("fleet", "keys", "rotate", "targets", "--uri", uri(3), "--keys", str(keys))
    assert rotated.returncode == 0, rotated.stderr
    assert (keys / "targets-1.retired").exists()
    shown = json.loads(edgec("fleet", "keys", "show", "--json").stdout)
    [targets] = shown["roles"]["targets"]["keys"]
    assert targets == json.loads((keys / "targets-2.token").read_text())["keyid"]
    assert list(shown["signed"]) == ["models/held/1/x86-64-v3"], "signed anew by the new key"
    away = edgec("fleet", "keys", "sign", "held:1", "--keys", str(keys), SOFTHSM2_CONF="/nonexistent")
    assert (away.returncode, "Traceback" in away.stderr) == (1, False), away.stderr
    assert "token" in away.stderr


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pkcs11:",
        "pkcs11:token=x",
        "pkcs11:id=%02",
        "hsm:2",
        "pkcs11:token=x;id=%01%01%01%01%01%01%01%01%01",
    ],
)
def test_a_uri_without_token_or_key_is_refused(text: str) -> None:
    with pytest.raises(FleetError, match="pkcs11:token=LABEL"):
        TokenUri.parse(text)


def test_a_uri_is_read_as_rfc_7512_says() -> None:
    found = TokenUri.parse("pkcs11:token=My%20card;object=k;id=%01%02?module-path=/opt/m.so&pin-source=x")
    assert found == TokenUri("My card", 0x0102, "/opt/m.so")
