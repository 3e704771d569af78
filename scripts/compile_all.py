"""Compile every model under a folder, verify each, and print a table of what came of it.

    python scripts/compile_all.py ../shared/data/onnx --target host --json results.json --tune none

Each model is compiled by ``edgec compile`` in a process of its own: one that crashes costs only itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Sizes for inputs that the files leave free.
SHAPES = {
    "silero_vad": ["input:1x512"],
    "ppocrv3_en_det": ["x:1x3x320x320"],
    "bodypix": ["input:1x240x320x3"],
    "lstm_bidi_bytes": ["input:1x32"],
}
LIMIT_S = 900


def compile_one(model: Path, target: str, extra: list[str], folder: Path) -> dict[str, Any]:
    """Compile one model; what came of it as a flat record."""
    shapes = next((s for part, s in SHAPES.items() if part in model.name), [])
    command = [sys.executable, "-m", "edgec.cli.main", "compile", str(model), "--target", target, "--json"]
    command += ["-o", str(folder / f"{model.stem}.edge"), *extra]
    for shape in shapes:
        command += ["--input", shape]
    begin = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"model": model.name, "compiles": False, "why": f"not done after {LIMIT_S} s"}
    record: dict[str, Any] = {"model": model.name, "seconds": round(time.perf_counter() - begin, 1)}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "Traceback"))]
        why = lines[0].removeprefix("error: ") if lines else f"exit status {done.returncode}"
        if why.startswith("Traceback"):
            why = "defect: " + done.stderr.strip().splitlines()[-1]
        return record | {"compiles": "does not match" in why, "matches": False, "why": why}
    evidence = json.loads(done.stdout)["evidence"]
    worst = max(evidence.get("outputs", []), key=lambda o: o["max_rel"], default=None)
    return record | {
        "compiles": True,
        "matches": evidence["verified"],
        "max_abs": worst and worst["max_abs"],
        "max_rel": worst and worst["max_rel"],
        "latency_ms": (evidence.get("latency") or {}).get("edgec", {}).get("median_ms"),
        "onnxruntime_ms": (evidence.get("latency") or {}).get("onnxruntime", {}).get("median_ms"),
        "fallback": [node for part in evidence.get("fallback", []) for node in part["nodes"]],
        "why": "",
    }


def row(record: dict[str, Any]) -> str:
    """A record as a row of a Markdown table."""

    def number(key: str, form: str) -> str:
        value = record.get(key)
        return "" if value is None else format(value, form)

    verdict = "matches" if record.get("matches") else "differs" if record["compiles"] else "no"
    note = record["why"] or (f"{len(record['fallback'])} nodes by ONNX Runtime" if record["fallback"] else "")
    cells = (record["model"], verdict, number("max_abs", ".1e"), number("max_rel", ".1e"))
    times = (number("latency_ms", ".3f"), number("onnxruntime_ms", ".3f"), number("seconds", ".0f"))
    return f"| {' | '.join((*cells, *times, note))} |"


def main() -> None:
    """Compile what is asked for, print rows as they come, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="host")
    parser.add_argument("--only", default="", help="part of the file names to take")
    parser.add_argument("--json", type=Path, help="also write the records here")
    asked, extra = parser.parse_known_args()  # what is not known here goes to edgec compile
    models = [m for m in sorted(asked.folder.rglob("*.onnx")) if asked.only in m.name]
    print("| model | result | largest error | relative | edgec ms | ONNX Runtime ms | compile s | note |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    records = []
    with tempfile.TemporaryDirectory(prefix="edgec-all-") as folder:
        for model in models:
            records.append(compile_one(model, asked.target, extra, Path(folder)))
            print(row(records[-1]), flush=True)
    compiled = sum(bool(r["compiles"]) for r in records)
    print(
        f"\n{len(records)} models, {compiled} compile, {sum(bool(r.get('matches')) for r in records)} match"
    )
    if asked.json:
        asked.json.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
