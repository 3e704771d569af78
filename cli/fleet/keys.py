"""`edgec fleet keys`: the keys that sign updates."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.arguments import Json, Server, Token, parse_model_version
from edgec.cli.console import emit_json, out
from edgec.targets.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Sign versions with keys that never reach the server (TUF).")
Keys = Annotated[Path, typer.Option("--keys", help="Folder of the private keys; keep it off the server.")]
KEYS = Path("edgec-keys")


@app.command()
def init(
    keys: Keys = KEYS,
    root_keys: Annotated[int, typer.Option(min=1, max=20)] = 1,
    root_threshold: Annotated[
        int, typer.Option(min=1, max=20, help="Number of root keys that must sign.")
    ] = 1,
    targets_keys: Annotated[int, typer.Option(min=1, max=20)] = 1,
    targets_threshold: Annotated[int, typer.Option(min=1, max=20)] = 1,
    root_uri: Annotated[
        list[str] | None,
        typer.Option(help="A root key on a PKCS#11 token: pkcs11:token=LABEL;id=%02. Repeatable."),
    ] = None,
    targets_uri: Annotated[
        list[str] | None, typer.Option(help="A targets key on a PKCS#11 token. Repeatable.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="Validity of the root role in days.")] = 365,
    server: Server = None,
    token: Token = None,
) -> None:
    """Create keys and set up trust: from then on, only signed versions are rolled out and installed.

    Keys on a PKCS#11 token never leave it. Its driver is named by ?module-path=/…/module.so in the URI or by
    PYKCS11LIB; its PIN is read from EDGEC_TOKEN_PIN or prompted for.
    """
    from edgec.fleet.client import signing
    from edgec.fleet.client.connection import FleetClient, resolve

    with FleetClient(*resolve(server, token)) as client:
        signing.init(
            client, keys, root_keys=root_keys, root_threshold=root_threshold, targets_keys=targets_keys,
            targets_threshold=targets_threshold, valid=timedelta(days=days), root_uris=root_uri or (),
            targets_uris=targets_uri or (),
        )  # fmt: skip
    out.print(f"trust is set up; the keys are in {keys}: keep copies of the root keys offline")
    out.print("devices that enrol from now on verify signatures")


@app.command()
def sign(
    model: Annotated[str, typer.Argument(metavar="MODEL:VERSION")],
    keys: Keys = KEYS,
    server: Server = None,
    token: Token = None,
) -> None:
    """Sign every artifact of a version."""
    from edgec.fleet.client import signing
    from edgec.fleet.client.connection import FleetClient, resolve

    name, version = parse_model_version(model)
    with FleetClient(*resolve(server, token)) as client:
        for item in signing.sign_version(client, keys, name, version):
            out.print(f"signed {item.path} {item.digest}", soft_wrap=True)


@app.command()
def revoke(
    model: Annotated[str, typer.Argument(metavar="MODEL:VERSION")],
    keys: Keys = KEYS,
    server: Server = None,
    token: Token = None,
) -> None:
    """Withdraw the signature of a version; devices reject it from their next check on."""
    from edgec.fleet.client import signing
    from edgec.fleet.client.connection import FleetClient, resolve

    name, version = parse_model_version(model)
    with FleetClient(*resolve(server, token)) as client:
        for path in signing.unsign_version(client, keys, name, version):
            out.print(f"{path} is no longer signed")


@app.command()
def rotate(
    role: Annotated[str, typer.Argument(help="Role: root or targets.")],
    add: Annotated[
        bool, typer.Option("--add", help="Keep the current keys in addition to the new one.")
    ] = False,
    uri: Annotated[
        str | None, typer.Option(help="Use this key on a PKCS#11 token: pkcs11:token=LABEL;id=%02.")
    ] = None,
    keys: Keys = KEYS,
    server: Server = None,
    token: Token = None,
) -> None:
    """Replace the keys of a role with a new one; the old ones are revoked."""
    from edgec.fleet.client import signing
    from edgec.fleet.client.connection import FleetClient, resolve

    check_role(role)
    with FleetClient(*resolve(server, token)) as client:
        keyid = signing.rotate(client, keys, role, keep=add, uri=uri)
    out.print(f"{role} is signed by {keyid} from now on")


@app.command()
def extend(
    role: Annotated[str, typer.Argument(help="Role: root or targets.")],
    days: Annotated[int, typer.Option(min=1)] = 365,
    keys: Keys = KEYS,
    server: Server = None,
    token: Token = None,
) -> None:
    """Renew the signature of a role before it expires."""
    from edgec.fleet.client import signing
    from edgec.fleet.client.connection import FleetClient, resolve

    check_role(role)
    with FleetClient(*resolve(server, token)) as client:
        signing.extend(client, keys, role, timedelta(days=days))
    out.print(f"{role} is valid for {days} days from now")


@app.command()
def show(server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """Show the roles, their keys and expiry dates, and the signed versions."""
    from edgec.fleet.client import signing
    from edgec.fleet.client.connection import FleetClient, resolve

    with FleetClient(*resolve(server, token)) as client:
        state = client.get("/trust")
        if not state["active"]:
            out.print("trust is not set up: edgec fleet keys init")
            return
        root, targets = signing.current_root(client), signing.current_targets(client)
    roles = dict(sorted(root.signed.roles.items()))
    if as_json:
        expiry = {"root": root.signed.expires, "targets": targets.signed.expires}
        named = {name: {"keys": role.keyids, "threshold": role.threshold} for name, role in roles.items()}
        emit_json({"roles": named, "signed": state["signed"], "expires": expiry})
        return
    for name, role in roles.items():
        out.print(f"{name}: {role.threshold} of {', '.join(key[:12] for key in role.keyids)}")
    out.print(f"root until {root.signed.expires:%Y-%m-%d}, targets until {targets.signed.expires:%Y-%m-%d}")
    for path, digest in sorted(state["signed"].items()):
        out.print(f"{path} {digest}", soft_wrap=True)


def check_role(role: str) -> None:
    """Reject a role that operators do not sign.

    Raises:
        UsageError: The role is neither root nor targets.
    """
    if role not in ("root", "targets"):
        raise UsageError(f"{role!r} is neither root nor targets; the server signs the other roles itself")
