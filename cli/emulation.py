"""`edgec targets emulator`, and running this command line in the emulator that it prepares."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from edgec.cli.arguments import folder_to_write
from edgec.cli.console import emit_json, out, styled

app = typer.Typer(
    help="Prepare the emulator that runs code for 64-bit ARM on another machine.", no_args_is_help=True
)

Arch = Annotated[str, typer.Option("--arch", help="Architecture to emulate.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def run_emulated(artifact: Path) -> NoReturn:
    """Run this command line again, in an emulator of the artifact's target, in the place of this process.

    Raises:
        ToolMissing: there is no emulator here.
    """
    from edgec.runtime import Artifact

    arguments = [argument for argument in sys.argv[1:] if argument != "--emulate"]
    _continue_in(Artifact.open(artifact).config.target, arguments)


def _continue_in(name: str, arguments: list[str]) -> NoReturn:
    """Run `edgec ARGUMENTS` in the emulator of the target called `name`, in the place of this process."""
    from edgec.compiler.emulation.emulator import find_emulator, lacking
    from edgec.compiler.errors import ToolMissing
    from edgec.targets import load_target

    target = load_target(name)
    emulator = find_emulator(target)
    if emulator is None:
        raise ToolMissing(f"code for {target.name} cannot be run here: {lacking(target)}")
    command, environment = emulator.command(["-m", "edgec.cli.main", *arguments])
    sys.stdout.flush()
    os.execve(command[0], command, os.environ | environment)


@app.command("install")
def install_command(
    arch: Arch = "aarch64",
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A folder that `edgec targets emulator download` filled, for use offline."
        ),
    ] = None,
) -> None:
    """Prepare the emulator: qemu, Python and what artifacts and the agent need, about 400 MB.

    Debian packages come by apt and wheels by pip, as both are configured on this machine. Nothing is installed in the
    system and no root rights are needed: everything is put into ~/.cache/edgec/emulator (or $EDGEC_EMULATOR_ROOT). Run
    it again after an update of edgec; if nothing has changed, it does nothing.
    """
    from edgec.cli.progress import TerminalProgress
    from edgec.compiler.emulation.install import install

    with TerminalProgress() as progress:
        root = install(arch, source, progress)
    out.print(
        styled((str(root), "bold"), " is ready: `edgec compile`, `verify` and `run --emulate` use it"),
        soft_wrap=True,
    )


@app.command("download")
def download_command(
    folder: Annotated[Path, typer.Argument(help="Folder to fill.", show_default=False)],
    arch: Arch = "aarch64",
) -> None:
    """Fetch all that `install --from FOLDER` needs on a machine without a network."""
    from edgec.cli.progress import TerminalProgress
    from edgec.compiler.emulation.install import download

    folder_to_write(folder)
    with TerminalProgress() as progress:
        download(arch, folder, progress)
    out.print(
        styled((str(folder), "bold"), f": for `edgec targets emulator install --from {folder}`"),
        soft_wrap=True,
    )


@app.command("status")
def status_command(arch: Arch = "aarch64", as_json: Json = False) -> None:
    """Show whether the emulator is prepared, and with what; exit with 1 if it is not."""
    from edgec.compiler.emulation.emulator import default_root, find_qemu
    from edgec.compiler.emulation.install import installed, wanted

    qemu, record, root = find_qemu(arch), installed(arch), default_root(arch)
    current = record is not None and wanted().items() <= record.items()
    if as_json:
        emit_json(
            {
                "qemu": qemu and str(qemu),
                "root": str(root),
                "packages": record,
                "ready": bool(qemu) and current,
            }
        )
    else:
        out.print(f"qemu  {qemu or 'not installed'}", soft_wrap=True)
        versions = ", ".join(f"{name} {version}" for name, version in (record or {}).items())
        out.print(f"root  {root}: {versions or 'not prepared'}", soft_wrap=True)
    if not qemu or not current:
        if not as_json:
            what = "is of other versions" if record else "is not ready"
            out.print(f"The emulator {what}: `edgec targets emulator install`")
        raise typer.Exit(1)


@app.command(
    "run",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def run_command(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(help="A target with an emulator, such as rpi5.", show_default=False)
    ],
) -> None:
    """Run any command of edgec on an emulated device: `edgec targets emulator run rpi5 agent run --config agent.toml`.

    The processes that it starts are emulated as well. Files, network and clock are those of this machine.
    """
    _continue_in(target, context.args)
