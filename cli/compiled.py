"""What a compile made, on the terminal and for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.cli.console import out, styled

if TYPE_CHECKING:
    from edgec.compiler.pipeline import CompileResult


def to_json(result: CompileResult) -> dict[str, Any]:
    """Return the result of a compilation for scripts."""
    return {
        "artifact": str(result.artifact),
        "digest": result.digest,
        "bytes": result.artifact.stat().st_size,
        "stages_s": result.stages_s,
        "evidence": result.evidence,
    }


def show(result: CompileResult, title: Path | None = None) -> None:
    """Print a summary: verification, speed, size and the slowest layers."""
    from rich.filesize import decimal as size

    evidence, config = result.evidence, result.config
    total = sum(result.stages_s.values())
    name = (str(title or result.artifact), "bold")
    out.print(styled(name, f" for {config.target}, in {total:.1f} s"), soft_wrap=True)
    if evidence["verified"]:
        worst = max(evidence["outputs"], key=lambda o: o["max_rel"], default=None)
        error = f", largest error {worst['max_abs']:.1e} ({worst['max_rel']:.0e} relative)" if worst else ""
        runs = f" in {evidence['steps']} runs of a session" if evidence.get("steps") else ""
        where = f" {evidence['reference']}{runs}{error}, run on {evidence['where']}"
        out.print(styled("  ", ("equals", "green"), where), soft_wrap=True)
    else:
        reason = f": {evidence.get('reason', 'outputs differ')}"
        out.print(styled("  ", ("not verified", "yellow"), reason), soft_wrap=True)
    for extreme in evidence.get("extremes", []):
        if extreme["outcome"].startswith("differs"):
            told = f" on inputs with {extreme['inputs']}: {extreme['outcome'].removeprefix('differs: ')}"
            out.print(styled("  ", ("differs", "yellow"), told), soft_wrap=True)
    for side, t in (evidence.get("latency") or {}).items():
        out.print(
            f"  {side:<12} {t['median_ms']:9.3f} ms median, {t['p90_ms']:.3f} p90, {t['min_ms']:.3f} min "
            f"({evidence['threads']} threads, {t['runs']} runs)"
        )
    show_certificate(evidence["certificate"])
    show_precisions(evidence.get("precision"))
    for bucket in evidence.get("buckets", [])[1:]:
        show_bucket(bucket)
    sizes = evidence["sizes"]
    out.print(
        f"  code {size(sizes['code_bytes'])}, weights {size(sizes['weights_bytes'])} "
        f"(model file {size(sizes['source_bytes'])}), artifact {size(result.artifact.stat().st_size)}"
    )
    for part in evidence.get("fallback", []):
        nodes = part["nodes"]
        shown = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
        runs = f" runs {len(nodes)} nodes on the device: {shown}"
        out.print(styled("  ", ("ONNX Runtime", "yellow"), runs), soft_wrap=True)
    from edgec.cli.profile import show_layers

    show_layers(evidence.get("layers", []), limit=5, indent="  ")


def show_certificate(certificate: dict[str, Any]) -> None:
    """Print how fast an artifact is and, where it is slower than ONNX Runtime, why."""
    from edgec.compiler.report.certificate import SLOWER, read_aloud

    colour = "yellow" if certificate["verdict"] == SLOWER else "bold"
    for line in read_aloud(certificate):
        out.print(styled("  ", (line, colour if line.startswith(("It is", "-")) else "")), soft_wrap=True)


def show_precisions(found: dict[str, Any] | None) -> None:
    """Print the precisions that were compared, with time, size and loss of each."""
    from edgec.compiler.report.precision import lines

    if not found or len(found["variants"]) < 2:
        return
    for line in lines(found):
        out.print(styled("  ", (line, "bold" if line.startswith("*") else "")), soft_wrap=True)
    for note in found["notes"]:
        out.print(styled("  ", (note, "yellow")), soft_wrap=True)


def show_bucket(bucket: dict[str, Any]) -> None:
    """Print the measurements for an additional set of input shapes."""
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in bucket["inputs"].items())
    worst = max(bucket.get("outputs", []), key=lambda o: o["max_rel"], default=None)
    error = (
        f"largest error {worst['max_abs']:.1e} ({worst['max_rel']:.0e} relative)" if worst else "not verified"
    )
    times = (f"{side} {t['median_ms']:.3f} ms" for side, t in bucket.get("latency", {}).items())
    out.print("  also accepts " + "; ".join([shapes, error, *times]), soft_wrap=True)
