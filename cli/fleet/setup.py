"""`edgec fleet setup`, `backup` and `restore`: a fleet on one machine, and what is left of it after a fire."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgec.cli.arguments import existing, file_to_write, folder_to_write
from edgec.cli.console import out

if TYPE_CHECKING:
    from edgec.fleet.settings import Settings

UNITS = Path("/etc/systemd/system")


def setup(
    folder: Annotated[
        Path, typer.Argument(help="Folder for settings, data and broker, such as /var/lib/edgec.")
    ],
    host: Annotated[
        list[str], typer.Option(help="Name or address by which devices reach this machine. Repeatable.")
    ],
    database: Annotated[
        str, typer.Option(help="PostgreSQL database; it is created if it is not there.")
    ] = "postgresql:///edgec",
    blobs: Annotated[
        str | None, typer.Option(help="Bucket for artifacts, as s3://bucket/prefix. [default: the folder]")
    ] = None,
    s3_endpoint: Annotated[
        str | None, typer.Option(help="Address of the bucket's store, if not Amazon's.")
    ] = None,
    fleet: Annotated[str, typer.Option(help="Name of the fleet in MQTT topics.")] = "default",
    port: Annotated[
        list[int] | None, typer.Option(help="Port of a server process. Repeatable. [default: 8600 and 8601]")
    ] = None,
    mqtt_port: Annotated[int, typer.Option(help="Port of the broker for devices.")] = 8883,
    user_port: Annotated[
        int, typer.Option(help="Port of the broker for users such as Home Assistant.")
    ] = 8884,
    server_port: Annotated[int, typer.Option(help="Port of the broker for the server processes.")] = 1884,
    user: Annotated[
        str | None,
        typer.Option(help="System user to run everything; root creates it. [default for root: edgec]"),
    ] = None,
    units: Annotated[
        Path | None,
        typer.Option(
            help="Folder for systemd's units. [default for root: /etc/systemd/system, else in the folder]"
        ),
    ] = None,
) -> None:
    """Prepare a fleet on this machine: PostgreSQL, Mosquitto with TLS, a bucket, and two or more server processes.

    Everything is in one folder, which only the system user that runs broker and servers can read. Running it again
    keeps keys, passwords and data.
    """
    import os

    from edgec.fleet.installation import Installation, set_up

    place = folder_to_write(folder).resolve()
    root = os.getuid() == 0
    wanted = Installation(
        place, tuple(host), database, blobs, s3_endpoint, fleet, tuple(port or (8600, 8601)), mqtt_port, user_port,
        server_port, user or ("edgec" if root else None), units or (UNITS if root else place / "systemd"),
    )  # fmt: skip
    for line in set_up(wanted, os.environ):
        out.print(line, soft_wrap=True)
    started = " ".join(["edgec-broker", *(f"edgec-fleet@{one}" for one in wanted.ports)])
    out.print(f"start it with: systemctl enable --now {started}", soft_wrap=True)
    out.print(
        f"then: edgec fleet login {wanted.url} --ca {wanted.data / 'ca' / 'ca.pem'} "
        f"--token-file {wanted.data / 'admin-token'}",
        soft_wrap=True,
    )


SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", help="The servers' settings, as for `edgec fleet serve`.", show_default=False),
]
Data = Annotated[Path | None, typer.Option(help="The servers' data folder. [default: edgec-fleet]")]


def backup(
    output: Annotated[Path, typer.Argument(help="File to write (tar).")],
    settings: SettingsFile = None,
    data: Data = None,
) -> None:
    """Back up a fleet while its servers run: database, keys, signatures and, unless in a bucket, blobs."""
    from edgec.fleet import backup as work

    found = work.back_up(load(settings, data), file_to_write(output))
    out.print(
        f"wrote {output}: {found.files} files and the database, {found.size / 1e6:.1f} MB; it contains secrets"
    )


def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="A file of `edgec fleet backup`.")],
    settings: SettingsFile = None,
    data: Data = None,
) -> None:
    """Restore a backup into an empty data folder and an empty database, while no server runs."""
    from edgec.fleet import backup as work

    loaded = load(settings, data)
    found = work.restore(loaded, existing(source, "backup"))
    out.print(f"restored {found.files} files to {loaded.data}, and the database", soft_wrap=True)


def load(settings_file: Path | None, data: Path | None) -> Settings:
    """The settings of a server from its file, the environment and defaults."""
    import os

    from edgec.fleet.settings import load_settings, read_settings_file

    if settings_file is not None:
        os.environ |= read_settings_file(settings_file) | os.environ
    if data is None and "EDGEC_FLEET_DATA" not in os.environ:
        data = Path("edgec-fleet")
    return load_settings(data=data)
