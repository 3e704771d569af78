"""The table of targets: whether networks build for each, run as its processor, and how far they are from the reference.

    python -m edgec.benchmarks.arm.every_target [MODEL…] [--quantised MODEL…] [--targets rpi5,rpi4]
        [--precisions fp32,fp16] [--half-budget 0.02] [--into FILE]

Each model is compiled for each target in each precision, without tuning, and verified as the target's processor in the
emulator (on this machine where it has the target's instructions). Models that come quantised (`--quantised`) have a
column of their own, int8. A figure is the largest error beside the reference, relative to the output's largest value.
`--into` keeps figures in a file, so that a second run continues the first. With a larger `--half-budget`, models whose
error in fp16 is beyond the default budget have a figure, too.

Needs `edgec targets emulator install`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgec.compiler.errors import TargetLacksPrecision
from edgec.compiler.options import ERROR_BUDGET, CompileOptions, Precision
from edgec.compiler.pipeline import compile_model
from edgec.compiler.shared import Shared
from edgec.targets import list_targets, load_target
from edgec.targets.errors import EdgecError

X86 = ("n100", "zen3", "zen4", "zen5", "sapphirerapids")
NONE = "–"  # the processor does not have the precision


def arm_targets() -> list[str]:
    """The targets of 64-bit ARM that are processors."""
    return [one.name for one in list_targets() if one.arch == "aarch64" and one.device_kind == "cpu"]


def figure(
    model: Path, target: str, precision: Precision, budget: float, shared: Shared, folder: Path
) -> dict[str, Any]:
    """The error of a model on a target, where it ran, or why there is no figure."""
    options = CompileOptions(threads=1, tune="none", precision=precision, error_budget=budget)
    try:
        made = compile_model(
            model, load_target(target), options, output=folder / f"{model.stem}-{target}.edge", shared=shared
        )
    except TargetLacksPrecision as error:
        return {"failure": str(error).splitlines()[0], "lacks": True}
    except EdgecError as error:
        return {"failure": str(error).splitlines()[0]}
    errors = [output["max_rel"] for output in made.evidence["outputs"]]
    return {"error": max(errors), "where": made.evidence["where"]}


def table(found: dict[str, dict[str, Any]], targets: list[str], columns: list[str]) -> str:
    """The figures as Markdown: a row for each target, a column for each precision."""
    lines = ["| target | run on | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for target in targets:
        cells, where = [], ""
        for column in columns:
            keys = [key for key in found if key.endswith(f"|{target}|{column}")]
            where = next((found[key]["where"] for key in keys if "where" in found[key]), where)
            errors = [found[key].get("error") for key in keys]
            known = [error for error in errors if error is not None]
            if not keys:
                cells.append("")
            elif all(found[key].get("lacks") for key in keys):
                cells.append(NONE)
            elif not known:
                cells.append("refused")
            else:
                refused = f", {len(errors) - len(known)} refused" if len(known) < len(errors) else ""
                cells.append(f"{max(known):.1g} of {len(known)}{refused}")
        lines.append(f"| `{target}` | {where.rpartition('-cpu ')[2]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compile, verify, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--quantised", nargs="*", type=Path, default=[], help="models that come in int8")
    parser.add_argument("--targets", help="by default those of 64-bit ARM, and the newer ones of x86-64")
    parser.add_argument("--precisions", default="fp32,fp16", help="of the other models")
    parser.add_argument(
        "--half-budget", type=float, default=ERROR_BUDGET["fp16"], help="error budget in fp16"
    )
    parser.add_argument("--into", type=Path, help="a JSON file that keeps the figures")
    arguments = parser.parse_args()
    targets = arguments.targets.split(",") if arguments.targets else [*arm_targets(), *X86]
    found: dict[str, dict[str, Any]] = {}
    if arguments.into is not None and arguments.into.is_file():
        found = json.loads(arguments.into.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="edgec-targets-") as scratch:
        for model in [*arguments.models, *arguments.quantised]:
            shared, quantised = Shared(), model in arguments.quantised
            wanted: list[Precision] = ["fp32"] if quantised else arguments.precisions.split(",")
            for precision in wanted:
                budget = arguments.half_budget if precision == "fp16" else ERROR_BUDGET[precision]
                for target in targets:
                    key = f"{model.parent.name}/{model.name}|{target}|{'int8' if quantised else precision}"
                    if key not in found:
                        found[key] = figure(model, target, precision, budget, shared, Path(scratch))
                        sys.stderr.write(f"{key}: {found[key]}\n")
                    if arguments.into is not None:
                        arguments.into.write_text(json.dumps(found, indent=1), encoding="utf-8")
    columns = [one for one in ("fp32", "fp16", "int8") if any(key.endswith(f"|{one}") for key in found)]
    sys.stdout.write(table(found, targets, columns))


if __name__ == "__main__":
    main()
