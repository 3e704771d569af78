"""`edgec compile` for several targets at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from edgec.cli.compile_options import Described
from edgec.cli.compiled import to_json
from edgec.cli.console import emit_json, err, out, styled
from edgec.cli.progress import TerminalProgress
from edgec.targets import EdgecError, Target

if TYPE_CHECKING:
    from edgec.compiler.options import CompileOptions
    from edgec.compiler.pipeline import CompileResult


def compile_for_all(
    model: Path,
    targets: Sequence[Target],
    options: CompileOptions,
    folder: Path,
    how: Described,
    *,
    as_json: bool,
) -> None:
    """Compile a model for each of several targets, sharing what does not depend on the target.

    A target that fails is reported, and the others are compiled nevertheless; then the exit status is that of the
    first failure.

    Args:
        how: further arguments of `compile_model`.
    """
    from edgec.compiler import pack
    from edgec.compiler.pipeline import compile_model
    from edgec.compiler.shared import Shared

    card, shared = how["card"], Shared()
    name = how["name"] or (card.name if card else None) or pack.artifact_name(model)
    done: dict[str, CompileResult] = {}
    failed: dict[str, EdgecError] = {}
    for target in targets:
        if not as_json:
            err.print(styled((target.name, "bold")))
        try:
            with TerminalProgress(quiet=as_json) as progress:
                output = folder / f"{name}-{target.name}.edge"
                done[target.name] = compile_model(
                    model, target, options, output=output, progress=progress, shared=shared, **how
                )
        except EdgecError as error:
            failed[target.name] = error
    _report(done, failed, as_json)
    if failed:
        raise typer.Exit(next(iter(failed.values())).exit_code)


def _report(done: dict[str, CompileResult], failed: dict[str, EdgecError], as_json: bool) -> None:
    same = _same_weights(done)
    if as_json:
        results = {name: to_json(result) | {"weights_as": same.get(name)} for name, result in done.items()}
        emit_json({"artifacts": results, "failed": {name: str(error) for name, error in failed.items()}})
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("target", "artifact", "size", "code", "weights", "verified", "largest error"):
        table.add_column(column, justify="right" if column in ("size", "code", "largest error") else "left")
    for name, result in done.items():
        table.add_row(*_row(name, result, same.get(name)))
    out.print(table)
    for name, error in failed.items():
        err.print(styled((f"error: {name}: ", "bold red"), str(error)), soft_wrap=True)


def _row(name: str, result: CompileResult, same: str | None) -> tuple[str, ...]:
    from rich.filesize import decimal as size

    evidence, sizes = result.evidence, result.evidence["sizes"]
    worst = max((output["max_rel"] for output in evidence.get("outputs", [])), default=None)
    weights = f"as {same}" if same else size(sizes["weights_bytes"])
    return (
        name,
        str(result.artifact),
        size(result.artifact.stat().st_size),
        size(sizes["code_bytes"]),
        weights,
        evidence["where"] if evidence["verified"] else "no",
        "" if worst is None else f"{worst:.1e}",
    )


def _same_weights(done: dict[str, CompileResult]) -> dict[str, str]:
    """The first target whose artifact holds the same weights, for those that have one: a registry keeps them once."""
    import edgec.runtime as rt
    from edgec.runtime.artifact import oci

    first: dict[str, str] = {}
    found: dict[str, str] = {}
    for name, result in done.items():
        layer = rt.Artifact.open(result.artifact).layer(oci.WEIGHTS_TYPE)
        if layer is None:
            continue
        if layer.digest in first:
            found[name] = first[layer.digest]
        else:
            first[layer.digest] = name
    return found
