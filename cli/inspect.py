"""`edgec inspect`: the contents of a model or an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from edgec.cli.arguments import BUCKETS_HELP, TARGET_HELP, choose_target, existing, parse_buckets
from edgec.cli.console import emit_json, out, styled
from edgec.cli.quiet_stderr import without_notices

if TYPE_CHECKING:
    from edgec.compiler.inspect import ModelSummary
    from edgec.compiler.options import Shape
    from edgec.runtime import Artifact

# How a state came to be one.
ORIGINS = {
    "variable": "a variable of the model",
    "names": "found by name",
    "declared": "declared in the card",
}


def command(
    file: Annotated[
        Path,
        typer.Argument(help="A model in any supported format, or an .edge artifact.", show_default=False),
    ],
    inputs: Annotated[list[str] | None, typer.Option("--input", "-i", help=BUCKETS_HELP)] = None,
    target: Annotated[str, typer.Option("--target", "-t", help=TARGET_HELP)] = "host",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show the contents of a model or an artifact without compiling or running it.

    For a model: inputs, outputs, operators, parameters, multiply-adds, memory, and which nodes can be compiled. For
    an artifact: its config, layers, digests and evidence.
    """
    existing(file, "file")
    if is_artifact(file):
        from edgec.runtime import Artifact

        artifact = Artifact.open(file)
        artifact.verify_digests()
        emit_json(artifact_json(artifact)) if as_json else show_artifact(artifact)
        return
    from edgec.compiler.inspect import inspect_model
    from edgec.compiler.options import CompileOptions

    chosen, sets = choose_target(target), parse_buckets(inputs or [])
    with without_notices():
        first, *further = [inspect_model(file, CompileOptions(input_shapes=shapes)) for shapes in sets]
    if as_json:
        emit_json(first.to_json() | ({"buckets": [one.to_json() for one in further]} if further else {}))
        return
    show_model(first, chosen.name)
    for shapes, one in zip(sets[1:], further, strict=True):
        show_work(shapes, one)


def is_artifact(file: Path) -> bool:
    """Return whether a file looks like an artifact (an OCI layout in a tar or a folder) rather than a model."""
    if file.is_dir():
        return (file / "oci-layout").is_file()
    with file.open("rb") as stream:
        return file.suffix == ".edge" or stream.read(10) == b"oci-layout"


def artifact_json(artifact: Artifact) -> dict[str, Any]:
    """Return the contents of an artifact for scripts."""
    import msgspec

    return {
        "digest": artifact.manifest_digest,
        "config": msgspec.to_builtins(artifact.config),
        "layers": [layer.to_json() for layer in artifact.layers],
        "labels": list(artifact.labels()),
        "evidence": artifact.evidence(),
    }


def show_artifact(artifact: Artifact) -> None:
    """Print the contents of an artifact."""
    from rich.filesize import decimal as size

    config = artifact.config
    title = (f"{config.name} {config.version}", "bold")
    out.print(styled(title, f" for {config.target} ({config.arch})"), soft_wrap=True)
    out.print(f"  digest     {artifact.manifest_digest}", soft_wrap=True)
    for number, variant in enumerate(config.variants()):
        shown = variant.visible()
        for kind, values in (("input", shown.inputs), ("output", shown.outputs)):
            for spec in values:
                label = f"or {kind}" if number else kind
                out.print(f"  {label:<10} {spec}", soft_wrap=True)
        for state in variant.states:
            begins = "begins with stored values" if state.initial else "begins with zeros"
            out.print(f"  {'state':<10} {state}, {begins} ({ORIGINS[state.origin]})", soft_wrap=True)
    out.print(f"  needs      {_needs(artifact)}", soft_wrap=True)
    source = config.provenance
    out.print(f"  source     {source.source} sha256:{source.source_sha256[:16]}…", soft_wrap=True)
    out.print(f"  compiler   edgec {config.edgec_version}, TVM {config.tvm_version}")
    evidence = artifact.evidence()
    if evidence is None or not evidence["verified"]:
        reason = (evidence or {}).get("reason", "the artifact contains no evidence")
        out.print(styled("  proof      ", ("none", "yellow"), f": {reason}"), soft_wrap=True)
    else:
        worst = max((o["max_rel"] for o in evidence["outputs"]), default=0.0)
        proof = ("verified", "green")
        out.print(styled("  proof      ", proof, f", largest relative error {worst:.1e}"))
    if evidence is not None and "certificate" in evidence:
        from edgec.compiler.report.certificate import read_aloud

        for number, line in enumerate(read_aloud(evidence["certificate"])):
            out.print(f"  {'speed' if number == 0 else '':<10} {line}", soft_wrap=True)
    if evidence is not None and "precision" in evidence:
        show_precision(evidence["precision"])
    table = Table("layer", "media type", "size", "digest")
    for layer in artifact.layers:
        table.add_row(layer.title, layer.media_type, size(layer.size), layer.digest[:19] + "…")
    out.print(table)


def _needs(artifact: Artifact) -> str:
    """What a machine must have to run an artifact."""
    features = ", ".join(artifact.config.required_features)
    if artifact.config.device_kind != "cuda":
        system = f"; glibc {artifact.config.min_glibc} or later" if artifact.config.min_glibc else ""
        return (features or "no CPU features") + system
    from edgec.runtime.gpu.code import unpack
    from edgec.runtime.gpu.driver_library import OLDEST_DRIVER

    binaries = unpack(artifact.code())[0].binaries
    made, later = (
        ", ".join(dict.fromkeys(one.arch for one in binaries if one.kind == kind))
        for kind in ("cubin", "ptx")
    )
    ptx = f", or a later one (PTX of {later})" if later else ""
    least = ".".join(map(str, OLDEST_DRIVER))
    return ", ".join(
        filter(None, (f"an NVIDIA GPU of {made}{ptx}; a driver for CUDA {least} or later", features))
    )


def show_precision(found: dict[str, Any]) -> None:
    """Print the precisions that were compared when an artifact was compiled."""
    from edgec.compiler.report.precision import calibration_in_words, lines

    for number, line in enumerate(lines(found)):
        out.print(f"  {'precision' if number == 0 else '':<10} {line}", soft_wrap=True)
    if "calibration" in found:
        out.print(f"  {'':<10} {calibration_in_words(found['calibration'])}", soft_wrap=True)
    for note in found["notes"]:
        out.print(f"  {'':<10} {note}", soft_wrap=True)


def show_work(shapes: Mapping[str, Shape], summary: ModelSummary) -> None:
    """Print the cost of an additional set of input shapes."""
    from rich.filesize import decimal as size

    told = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    if summary.missing:
        out.print(styled("  ", ("to compile", "yellow"), f"  {summary.missing}"), soft_wrap=True)
        return
    work, memory = (summary.multiply_adds or 0) / 1e6, size(summary.activation_bytes or 0)
    out.print(f"  with {told}: {work:,.1f} million multiply-adds, {memory} of activations", soft_wrap=True)


def show_model(summary: ModelSummary, target: str) -> None:
    """Print a model's properties."""
    from rich.filesize import decimal as size

    opsets = ", ".join(f"{domain} {version}" for domain, version in summary.opsets.items())
    out.print(styled((str(summary.path), "bold")), soft_wrap=True)
    out.print(
        f"  format      ONNX, IR {summary.ir_version}, opset {opsets}; by {summary.producer or 'unknown'}",
        soft_wrap=True,
    )
    for kind, values in (("input", summary.inputs), ("output", summary.outputs)):
        for name, typed in values.items():
            out.print(f"  {kind:<11} {name}: {typed}", soft_wrap=True)
    for note in summary.notes:
        out.print(f"  {note}", soft_wrap=True)
    out.print(f"  parameters  {summary.parameters:,} ({size(summary.parameter_bytes)})")
    if summary.multiply_adds is not None:
        out.print(f"  work        {summary.multiply_adds / 1e6:,.1f} million multiply-adds per run")
    if summary.activation_bytes is not None:
        out.print(f"  memory      {size(summary.activation_bytes)} of activations at peak")
    operators = ", ".join(f"{name} {count}" for name, count in summary.operators.items())
    out.print(f"  operators   {summary.nodes} nodes: {operators}", soft_wrap=True)
    if summary.missing:
        out.print(styled("  ", ("to compile", "yellow"), f"  {summary.missing}"), soft_wrap=True)
    elif not summary.unsupported:
        compiled = f"    for {target}: {summary.nodes_compiled} nodes after folding"
        out.print(styled("  ", ("compiles", "green"), compiled), soft_wrap=True)
    else:
        out.print(styled("  ", ("not compiled", "yellow"), f" for {target}:"), soft_wrap=True)
        for node in summary.unsupported:
            out.print(f"    {node}", soft_wrap=True)
