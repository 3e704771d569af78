"""`edgec libedgec`: the library with which C programs run artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.arguments import TARGET_HELP, choose_target, folder_to_write
from edgec.cli.compile_c import Libc
from edgec.cli.console import emit_json, out


def command(
    target: Annotated[str, typer.Option("--target", "-t", help=TARGET_HELP)] = "host",
    libc: Annotated[Libc, typer.Option(help="The C library of the system.")] = Libc.gnu,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to. [default: libedgec-ARCH-LIBC]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build libedgec (header, static and shared library): C programs run any artifact with it, without Python."""
    hardware = choose_target(target)
    folder = folder_to_write(output or Path(f"libedgec-{hardware.arch}-{libc.value}"))
    from rich.filesize import decimal as size

    from edgec.compiler.c_library.libedgec import build_libedgec

    made = build_libedgec(folder, hardware, libc.value)
    if as_json:
        emit_json({"folder": str(made.folder), "files": made.files})
        return
    files = ", ".join(f"{name} {size(count)}" for name, count in made.files.items())
    out.print(f"{made.folder}: {files}", soft_wrap=True, markup=False)
