"""`edgec runtime`: what a device needs, for devices with and without a network."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.arguments import TARGET_HELP, choose_target, folder_to_write
from edgec.cli.compile_c import Libc
from edgec.cli.console import emit_json, out, styled
from edgec.targets.errors import UsageError

app = typer.Typer(help="Package the runtime and the agent for devices.", no_args_is_help=True)

TargetName = Annotated[str, typer.Option("--target", "-t", help=TARGET_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command("bundle")
def bundle_command(
    target: TargetName = "host",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write. [default: edgec-TARGET]")
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="Version of the device's Python, such as 3.11. [default: this one's]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a folder that installs runtime and agent on a device without a network: copy it there, run install.sh.

    It holds the wheels of what a device needs (nothing of a compiler), TVM's runtime library for its architecture, the
    systemd unit, an example configuration and the script, which needs Python and no pip.
    """
    from edgec.cli.progress import TerminalProgress
    from edgec.compiler.device_package.bundle import make_bundle

    version = python or ".".join(platform.python_version_tuple()[:2])
    parts = version.split(".")
    if (
        len(parts) != 2
        or not all(part.isdecimal() for part in parts)
        or (int(parts[0]), int(parts[1])) < (3, 11)
    ):
        raise UsageError(f"--python {version}: name a version such as 3.11; edgec needs 3.11 or later")
    hardware = choose_target(target)
    folder = folder_to_write(output or Path(f"edgec-{hardware.name}"))
    with TerminalProgress(quiet=as_json) as progress:
        make_bundle(hardware, folder, version, progress)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if as_json:
        emit_json({"folder": str(folder), "target": hardware.name, "python": version, "bytes": size})
    else:
        text = (
            f", {size / 1e6:.0f} MB, for {hardware.name} with Python {version}: run {folder}/install.sh there"
        )
        out.print(styled((str(folder), "bold"), text), soft_wrap=True)


@app.command("wheel")
def wheel_command(
    target: TargetName = "host",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the wheel into.")] = Path(
        "dist"
    ),
    standalone: Annotated[
        bool, typer.Option("--standalone", help="Build edgec_runtime, which needs neither numpy nor TVM.")
    ] = False,
    libc: Annotated[Libc, typer.Option(help="With --standalone: the C library of the system.")] = Libc.gnu,
    as_json: Json = False,
) -> None:
    """Build edgec's wheel for machines such as the target, with TVM's runtime library inside.

    `pip install` of it brings all that a device needs. With --standalone: a wheel of a tenth of a megabyte that runs
    artifacts from Python (`import edgec_runtime`) and requires no other package.
    """
    hardware, folder = choose_target(target), folder_to_write(output)
    if standalone:
        from edgec.compiler.device_package.standalone import build_standalone_wheel

        path = build_standalone_wheel(hardware, libc.value, folder)
    elif libc is not Libc.gnu:
        raise UsageError(
            f"--libc {libc.value}: TVM's runtime library is built for glibc only; add --standalone"
        )
    else:
        from edgec.compiler.device_package.wheel import build_wheel

        path = build_wheel(hardware, folder)
    size = path.stat().st_size
    if as_json:
        emit_json({"wheel": str(path), "bytes": size})
    else:
        out.print(
            styled((str(path), "bold"), f", {size / 1e6:.{1 if size > 1e6 else 2}f} MB"), soft_wrap=True
        )
