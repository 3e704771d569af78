"""`edgec targets`: the hardware that models can be compiled for."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from edgec.cli import emulation
from edgec.cli.arguments import existing
from edgec.cli.console import emit_json, out, styled
from edgec.targets import Target, UsageError
from edgec.targets.core import Core

if TYPE_CHECKING:
    from edgec.targets.gpu import Gpu
    from edgec.targets.machine_rates import MachineRates

app = typer.Typer(
    help="List and describe the hardware that models can be compiled for.", no_args_is_help=True
)

app.add_typer(emulation.app, name="emulator")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return "none" if count == 0 else f"{count} B"


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """List all targets: those included with edgec and your own in ~/.config/edgec/targets."""
    from edgec.targets import list_targets

    targets = list_targets()
    if as_json:
        emit_json([target.to_json() for target in targets])
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("target", "aliases", "hardware", "description"):
        table.add_column(name, overflow="fold")
    for target in targets:
        table.add_row(target.name, ", ".join(target.aliases), _hardware(target), target.description)
    out.print(table)


def _hardware(target: Target) -> str:
    if target.gpu is not None:
        return f"{', '.join(target.gpu.architectures)}; {target.gpu.multiprocessors} SM"
    return f"{target.cores} cores, {target.vector_bits} bit"


@app.command("show")
def show_command(
    target: Annotated[str, typer.Argument(help="A name, an alias or the path of a .toml file.")],
    as_json: Json = False,
) -> None:
    """Show a target's properties."""
    from edgec.targets import load_target

    _show(load_target(target), as_json)


@app.command("detect")
def detect_command(
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure what this machine can do, and keep it for later compiles."),
    ] = False,
    cpuinfo: Annotated[
        str | None,
        typer.Option(
            help="A copy of another machine's /proc/cpuinfo, or - to read it: which target that machine is."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the target that matches this machine best, and with --measure the machine's limits.

    A machine is recognised by its processors and its board, else by what its processors can do. An NVIDIA GPU is found
    by its driver, and the targets for it are named, the best first.
    """
    from edgec.targets import detect, detect_other

    if cpuinfo is not None:
        if measure:
            raise UsageError("--measure measures this machine; --cpuinfo describes another one")
        text = (
            sys.stdin.read()
            if cpuinfo == "-"
            else existing(Path(cpuinfo), "file").read_text("utf-8", "replace")
        )
        _show(detect_other(text), as_json)
        return
    target = detect()
    if not measure:
        if as_json:
            gpu = _gpu_json()
            emit_json(target.to_json() | ({"nvidia": gpu} if gpu else {}))
            return
        _show(target, as_json)
        out.print(f"\n{_gpu_line()}", soft_wrap=True)
        return
    from edgec.compiler.backends.registry import backend_of
    from edgec.compiler.this_machine import known_rates

    rates = known_rates(backend_of(target), anew=True)
    if rates is None:
        raise UsageError(f"this machine cannot be measured: it does not run code for {target.name}")
    target = replace(target, core=rates.core(target))
    if as_json:
        emit_json({"target": target.to_json(), "rates": rates.to_json()})
        return
    _show(target, as_json)
    _show_rates(rates)


def _gpu_json() -> dict[str, Any] | None:
    """The NVIDIA GPU of this machine and the targets for it; None where there is none."""
    from edgec.runtime import IncompatibleDevice
    from edgec.runtime.gpu.found import find_gpu
    from edgec.targets import list_targets

    try:
        found = find_gpu()
    except IncompatibleDevice:
        return None
    return found.to_json() | {"targets": found.among(list_targets())}


def _gpu_line() -> str:
    """The NVIDIA GPU of this machine, or why it has none, in words."""
    from edgec.runtime import IncompatibleDevice
    from edgec.runtime.gpu.found import find_gpu
    from edgec.targets import list_targets

    try:
        found = find_gpu()
    except IncompatibleDevice as error:
        return f"NVIDIA GPU: none, as {str(error).splitlines()[0].rstrip('.')}"
    fitting = found.among(list_targets())
    wanted = f"--target {fitting[0]}" if fitting else f"no target: no code is made for {found.architecture}"
    others = f" (or {', '.join(fitting[1:])})" if fitting[1:] else ""
    return (
        f"NVIDIA GPU: {found.name}, {found.architecture}, {found.multiprocessors} multiprocessors, "
        f"{_size(found.memory_bytes)}, driver for CUDA {found.driver}: {wanted}{others}"
    )


def _show_rates(rates: MachineRates) -> None:
    out.print(f"\n{rates.processor}: {rates.family}, {rates.ghz:.2f} GHz while measuring", soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("", "1 thread", f"{rates.threads} threads", "latency"):
        table.add_column(column, justify="right" if column else "left")
    for kind, pair in rates.gops.items():
        table.add_row(kind, *(f"{rate:,.0f} G op/s" for rate in pair), "")
    for level in rates.levels:
        moved = (f"{rate:,.0f} GB/s" for rate in level.gbytes)
        table.add_row(level.name, *moved, f"{level.latency_ns:.1f} ns")
    out.print(table)


def _core(core: Core) -> str:
    dots = [f"{name} ({rate.per_cycle:g} a cycle)" for name, rate in sorted(core.dots.items())]
    facts = (
        f"{core.microarchitecture}: {core.issue_width} instructions a cycle, of vectors {core.fma_per_cycle:g} "
        f"multiply-adds (latency {core.fma_latency:g}) and {core.loads_per_cycle:g} loads"
    )
    return facts + (f"; {', '.join(dots)}" if dots else "")


def _bandwidth(target: Target) -> str:
    core = target.core
    levels = {
        "L2": core.l2_bytes_per_cycle,
        "L3": core.l3_bytes_per_cycle,
        "memory": core.memory_bytes_per_cycle,
    }
    if not target.l3_bytes:
        del levels["L3"]
    values = " / ".join(f"{value:g}" for value in levels.values())
    return f"{values} bytes a cycle from {' / '.join(levels)}"


def _show(target: Target, as_json: bool) -> None:
    if as_json:
        emit_json(target.to_json())
        return
    out.print(styled((target.name, "bold"), f"  {target.description}"), soft_wrap=True)
    rows = {"aliases": ", ".join(target.aliases)} | (
        _processor_rows(target) if target.gpu is None else _gpu_rows(target, target.gpu)
    )
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)


def _processor_rows(target: Target) -> dict[str, str]:
    caches = " / ".join(_size(size) for size in (target.l1d_bytes, target.l2_bytes, target.l3_bytes))
    return {
        "architecture": target.arch,
        "processors": ", ".join(target.processors) or "any with these features",
        "vectors": f"{target.vector_bits} bit, {target.vector_registers} registers",
        "features": " ".join(sorted(target.features)),
        "core": _core(target.core),
        "bandwidth": _bandwidth(target),
        "cores": str(target.cores),
        "L1d / L2 / L3": caches,
        "memory": _size(target.memory_bytes),
        "C library": f"glibc {target.min_glibc} or later",
        "emulator": f"qemu -cpu {target.emulator}" if target.emulator else "none",
        "TVM target": _tvm_target(target),
    }


def _gpu_rows(target: Target, gpu: Gpu) -> dict[str, str]:
    memory = "shared with the processor, " if gpu.unified_memory else ""
    return {
        "architectures": ", ".join(gpu.architectures)
        + (f"; PTX of {gpu.ptx} for later ones" if gpu.ptx else ""),
        "multiprocessors": f"{gpu.multiprocessors} at up to {gpu.clock_mhz} MHz",
        "peak": f"{gpu.fp32_gflops / 1000:.3g} TFLOP/s in fp32, without tensor cores",
        "tensor cores": ", ".join(gpu.tensor_types) or "none",
        "shared memory": f"{_size(gpu.shared_bytes_per_multiprocessor)} a multiprocessor, "
        f"at most {_size(gpu.shared_bytes_per_block)} a block",
        "L2": _size(gpu.l2_bytes),
        "memory": f"{_size(target.memory_bytes)}, {memory}{gpu.memory_gb_per_s:g} GB/s",
        "source": gpu.source,
        "TVM target": _tvm_target(target),
    }


def _tvm_target(target: Target) -> str:
    return ", ".join(f"{key}={value}" for key, value in target.tvm.items())
