"""`edgec fleet ca`: the certificate authority of the fleet."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.arguments import Json, Server, Token, Yes, folder_to_write, sure
from edgec.cli.console import emit_json, out

app = typer.Typer(no_args_is_help=True, help="Certificates for devices and servers (mutual TLS).")
Data = Annotated[Path, typer.Option(help="Data folder of the fleet server.")]
DATA = Path("edgec-fleet")


@app.command()
def init(
    data: Data = DATA,
    name: Annotated[str, typer.Option(help="Name of the authority.")] = "edgec fleet",
    days: Annotated[int, typer.Option(min=1, help="Validity in days.")] = 3650,
    certificate: Annotated[
        Path | None, typer.Option(help="Certificate (PEM) of an existing authority to import.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Key of that authority (PEM, not encrypted).")] = None,
) -> None:
    """Create the authority, or import one, before the server starts."""
    from edgec.fleet.certificates.authority import CERTIFICATE, Authority
    from edgec.fleet.certificates.service import FOLDER
    from edgec.targets.errors import UsageError

    if (certificate is None) is not (key is None):
        raise UsageError("--certificate and --key must be given together")
    folder = data / FOLDER
    if certificate is not None and key is not None:
        Authority.import_from(folder, certificate, key)
    else:
        Authority.create(folder, name, days)
    out.print(
        f"the authority is in {folder}; devices and browsers must trust {folder / CERTIFICATE}",
        soft_wrap=True,
    )
    out.print("devices that enrol from now on receive certificates; start the server with --tls")


@app.command()
def server(
    host: Annotated[list[str], typer.Argument(help="Host names and addresses of the server.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for server.pem, server.key and ca.pem.")],
    data: Data = DATA,
    days: Annotated[int, typer.Option(min=1, help="Validity in days.")] = 825,
) -> None:
    """Issue a certificate for an external broker or proxy."""
    from edgec.fleet.broker.first_files import issue_server
    from edgec.fleet.certificates.authority import Authority
    from edgec.fleet.certificates.service import FOLDER
    from edgec.fleet.errors import FleetError

    authority = Authority.load(data / FOLDER)
    if authority is None:
        raise FleetError(f"there is no authority in {data / FOLDER}: edgec fleet ca init --data {data}")
    folder_to_write(out_folder)
    issue_server(authority, host, out_folder, timedelta(days=days))
    out.print(f"wrote server.pem, server.key and ca.pem in {out_folder}")


@app.command()
def claim(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for claim.pem, claim.key and ca.pem.")],
    uses: Annotated[int, typer.Option(min=1, help="Number of devices that may enrol with it.")] = 100,
    days: Annotated[int, typer.Option(min=1, help="Validity in days.")] = 365,
    accept: Annotated[
        bool, typer.Option("--accept", help="Accept these devices without an operator's approval.")
    ] = False,
    server: Server = None,
    token: Token = None,
) -> None:
    """Issue a claim certificate, to be installed on many devices in the factory."""
    from edgec.fleet.client.connection import FleetClient, resolve
    from edgec.fleet.store.files import replace_file

    folder_to_write(out_folder)
    body = {"uses": uses, "valid_s": days * 86400, "auto_accept": accept}
    with FleetClient(*resolve(server, token)) as client:
        made = client.post("/certificates/claims", body)
    out_folder.mkdir(parents=True, exist_ok=True)
    replace_file(out_folder / "claim.key", made["key"].encode())
    (out_folder / "claim.pem").write_text(made["certificate"])
    (out_folder / "ca.pem").write_text(made["ca_pem"])
    out.print(
        f"claim {made['serial']} is valid for {uses} devices: edgec agent enroll --claim {out_folder} …"
    )


@app.command("list")
def list_all(device: str = "", server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """List issued certificates as JSON."""
    from edgec.fleet.client.connection import FleetClient, resolve

    with FleetClient(*resolve(server, token)) as client:
        emit_json(client.get("/certificates", device=device)["items"])


@app.command()
def revoke(serial: str, yes: Yes = False, server: Server = None, token: Token = None) -> None:
    """Revoke one certificate immediately; for all of a device's, use `edgec devices revoke`."""
    from edgec.fleet.client.connection import FleetClient, part, resolve

    sure(serial, "revoke this certificate for good", yes=yes)
    with FleetClient(*resolve(server, token)) as client:
        client.delete(f"/certificates/{part(serial)}")
