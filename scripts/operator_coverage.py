"""Run the node tests of the `onnx` package through the compiler and write docs/operators.md.

    python scripts/operator_coverage.py --results coverage.jsonl          # some 10 minutes on 2 cores
    python scripts/operator_coverage.py --results coverage.jsonl --again wrong,refused,resize
    python scripts/operator_coverage.py --results ort.jsonl --engine onnxruntime    # or openvino, or tvm
    python scripts/operator_coverage.py --results opencl.jsonl --engine opencl      # GPU kernels, by PoCL
    python scripts/operator_coverage.py --results coverage.jsonl --beside onnxruntime=ort.jsonl tvm=tvm.jsonl

Outcomes go to a file, one a line, and a test that is in it is not run again: after a break, start it again. Tests of
the same operator sets are compiled side by side in one model. The first tests of all operators come first, then the
second ones, and so on, so that a run of limited time (`--until`) has something of each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.standard_engines import ENGINES, PACKAGES, TITLES, in_sequences  # noqa: E402 - found only with the line above
from tests.compiler import backend_cases as cases  # noqa: E402 - found only with the line above

LIMIT_S = 60
OURS = ("edgec", "opencl")  # the compiler: for this processor, and for GPUs, whose kernels PoCL runs
ORDER = ("native", "fallback", "wrong", "refused", "excluded")


def forget(results: Path, again: str) -> None:
    """Remove outcomes from `results`, by result or part of the operator's name, so that their tests run again."""
    words = [word.lower() for word in again.split(",") if word]
    kept = []
    for line in _lines(results):
        told = json.loads(line)
        names = (told["operator"].lower(), told["name"])
        if told["result"] not in words and not any(word in name for word in words for name in names):
            kept.append(line + "\n")
    results.write_text("".join(kept), encoding="utf-8")


def run_all(results: Path, only: str, until: float, engine: str) -> int:
    """Run tests that `results` lacks in a child process, so that a crash costs one test; returns how many remain."""
    begin = time.monotonic()
    done = {json.loads(line)["name"] for line in _lines(results)}
    patterns = cases.exclusions()
    tests = [t for t in cases.all_tests() if only in t.name and t.name not in done]
    made: list[cases.Case] = []
    for test in tests:
        case = cases.excluded(test.name, patterns) or cases.make_case(test)
        if isinstance(case, str):
            operator = test.model.graph.node[0].op_type
            _write(results, cases.Outcome(test.name, operator, "excluded", case))
        else:
            made.append(case)
    seen: Counter[str] = Counter()
    turns = {}
    for case in made:
        turns[case.name] = seen[case.operator]
        seen[case.operator] += 1
    made.sort(key=lambda case: turns[case.name])
    groups = cases.grouped(made, cases.TOGETHER if engine in OURS else 1)
    worker, ran = _worker(), 0
    while groups:
        if time.monotonic() - begin > until:
            break
        group = groups.pop(0)
        try:
            outcomes = worker.submit(_run, group, engine).result(timeout=LIMIT_S * len(group))
        except (BrokenProcessPool, TimeoutError) as error:
            what = "crashed" if isinstance(error, BrokenProcessPool) else f"not done after {LIMIT_S} s"
            outcomes = (
                [cases.Outcome(group[0].name, group[0].operator, "wrong", what)] if len(group) == 1 else []
            )
            groups += [[case] for case in group] if len(group) > 1 else []
            for process in list((worker._processes or {}).values()):
                process.kill()
            worker.shutdown(wait=False, cancel_futures=True)
            worker = _worker()
        for outcome in outcomes:
            _write(results, outcome)
        ran += len(outcomes)
        print(f"{ran} of {len(made)}", file=sys.stderr, flush=True)
    worker.shutdown()
    return sum(len(group) for group in groups)


def _worker() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn"))


def _run(group: list[cases.Case], engine: str) -> list[cases.Outcome]:
    if engine not in OURS:
        return [_run_elsewhere(case, engine) for case in group]
    outputs = None
    if engine == "opencl":
        from tests.compiler.backends.opencl.apart import outputs_of as outputs
    with tempfile.TemporaryDirectory(prefix="edgec-coverage-") as scratch:
        return cases.run_together(group, Path(scratch), outputs)


def _run_elsewhere(case: cases.Case, engine: str) -> cases.Outcome:
    """The same case in another runtime: `native` where it gives what the test states."""
    try:
        difference = cases.mismatch(case, in_sequences(ENGINES[engine])(case.model, case.inputs))
    except Exception as error:  # noqa: BLE001 - whatever another runtime raises, it refuses the model
        return cases.Outcome(case.name, case.operator, "refused", f"{type(error).__name__}: {error}"[:300])
    return cases.Outcome(case.name, case.operator, "wrong" if difference else "native", difference)


def _lines(results: Path) -> list[str]:
    return results.read_text(encoding="utf-8").splitlines() if results.is_file() else []


SPECIAL_VALUES = """\
## Special values

NaN and infinities pass through as IEEE 754 and the standard say: maxima and minima (Relu, Clip, Max, Min,
MaxPool, ReduceMax, ReduceMin and what contains them) and Sign keep NaN, alone and fused into another kernel.
Where a number is limited and becomes an integer, the limit holds for NaN, too. ThresholdedRelu of NaN is 0,
as the standard says. ArgMax and ArgMin find the first NaN, as numpy does; TopK and Unique take NaN for the
largest of numbers, and Unique for one value.

One exception: a grouped convolution whose groups are narrower than a vector computes neighbouring groups
together, and NaN or an infinity in one channel makes the results of up to a vector of channels NaN.

Integer division never traps: `a / 0` is 0, `a mod 0` is 0, the least number divided by -1 is itself (it
wraps), and `a mod -1` is 0, as in numpy. ONNX Runtime refuses to divide by zero, so the inputs made up for
the verification hold no zeros where integers are divided by them.

An index that is out of range at run time never reaches other memory: Gather and GatherElements take the last
element instead (the first, if it is too far to the front), ScatterElements and ScatterND leave the write out.

## Where ONNX Runtime and the standard differ

The standard counts, as its text and its evaluator say:

- GridSample, cubic with the padding `border`: a sample beyond the border is the border's pixel; ONNX Runtime
  interpolates between copies of it. Such models are verified against the standard's evaluator.
- Resize with `align_corners` and a scale that yields no whole size divides by the exact size less one, ONNX
  Runtime by the rounded one.
- MatMulInteger takes a zero point per row of its first input, Conv SAME padding with dilations, Resize any
  axes and ranks: ONNX Runtime refuses them.
- Integer divisions by zero are defined here (above).
- ScatterElements and ScatterND with the reductions `max` and `min` keep NaN, as ReduceMax does; ONNX Runtime and, for
  ScatterElements, the standard's evaluator lose it.

And where the standard's evaluator departs from its text, the text counts: pools with `ceil_mode` or
dilations, LRN, the norms of odd order in LpNormalization, Softmax before operator set 13,
`pytorch_half_pixel` of a single element (coordinate 0), infinities in QuantizeLinear (they saturate).
`tests/compiler/samples/truths.py` has these from the text.

Two things follow ONNX Runtime: ConvTranspose with SAME padding and a stride greater than its window has no
positions that no input reaches, and a cast of a float to an integer of 4 or 2 bits rounds (the standard
leaves it open) and wraps.
"""


def _write(results: Path, outcome: cases.Outcome) -> None:
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def _summary(what: str, outcomes: list[dict[str, str]]) -> str:
    total = Counter(outcome["result"] for outcome in outcomes)
    counted = sum(count for result, count in total.items() if result != "excluded")
    native, passed = total["native"], total["native"] + total["fallback"]
    share = max(counted, 1)
    return (
        f"**Of {counted} {what}, {native} pass natively compiled ({native / share:.2%}), {passed} with fallback "
        f"({passed / share:.2%}).** {total['excluded']} more are excluded, for the reasons below."
    )


def _opsets() -> dict[str, str]:
    """The operator set that each node test is written for: of the default domain, or another one by name."""
    told = {}
    for test in cases.all_tests():
        domains = {node.domain for node in test.model.graph.node}
        versions = {entry.domain: entry.version for entry in test.model.opset_import}
        other = next((d for d in sorted(domains) if d.startswith("ai.onnx.")), "")
        told[test.name] = f"{other} {versions.get(other, 1)}" if other else f"{versions.get('', 1):02}"
    return told


def by_opset(outcomes: list[dict[str, str]], beside: dict[str, list[dict[str, str]]]) -> list[str]:
    """The table of node tests by operator set: native, fallback and others here; right of those elsewhere."""
    opsets, elsewhere = _opsets(), {}
    for engine, found in beside.items():
        elsewhere[engine] = {o["name"] for o in found if o["result"] == "native"}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        if outcome["operator"].startswith("models: "):
            continue
        result, name = outcome["result"], outcome["name"]
        for row in (opsets.get(name, "?"), "all"):
            counts[row][result] += 1
            if result != "excluded":
                counts[row]["tests"] += 1
                counts[row].update(engine for engine, right in elsewhere.items() if name in right)
    titles = [TITLES[engine] for engine in beside]
    heads = ["operator set", "tests", "native", "fallback", "wrong or refused", *titles, "excluded"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in sorted(counts, key=lambda row: (row == "all", row.startswith("ai"), row)):
        c = counts[row]
        cells = [c["tests"], c["native"], c["fallback"], c["wrong"] + c["refused"]]
        cells += [*(c[engine] for engine in beside), c["excluded"]]
        lines.append(f"| {row.lstrip('0')} | {' | '.join(str(cell or '') for cell in cells)} |")
    return lines


def _versions(beside: Iterable[str]) -> str:
    packages = ("onnx", *(PACKAGES[engine] for engine in beside))
    return ", ".join(f"{package} {version(package)}" for package in packages)


def render(outcomes: list[dict[str, str]], left: int, beside: dict[str, list[dict[str, str]]]) -> str:
    """The table by operator as Markdown."""
    by_operator: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        by_operator[outcome["operator"]][outcome["result"]] += 1
    lines = [
        "# Operators",
        "",
        "Generated by `python scripts/operator_coverage.py` from the node tests, the simple models and the models",
        "converted from PyTorch in the `onnx` package (its light models are downloads and not part of it): each is",
        "compiled, run with the runtime and compared with the values that the test states. Shapes, axes and",
        "counts that those tests pass as inputs are constants here (`tests/compiler/backend_cases.py` lists",
        "which), as they are in exported models. Where numpy has no such type (bfloat16, floats of 4 and 8 bits,",
        "integers of 2 and 4), float32 goes in and comes out, with a cast at the border. Sequences go in and come out",
        "as their elements. *Native* is compiled code;",
        "*fallback* runs the node through ONNX Runtime inside the artifact; *wrong* gives other values than the",
        "test states; *refused* is an error with a message.",
        "",
        _summary("node tests", [o for o in outcomes if not o["operator"].startswith("models: ")]),
        "",
        _summary("models", [o for o in outcomes if o["operator"].startswith("models: ")]),
        *(["", f"{left} tests are still to be run and not counted here."] if left else []),
        "",
        "## By operator set",
        "",
        "The same tests in other runtimes, as often as they give what the test states. Plain TVM is its own importer,",
        "`relax.frontend.onnx.from_onnx`, and `tvm.compile` for `llvm`. All get the model that edgec gets, with",
        "the same parameters as constants, each in a process whose crash costs one test.",
        f"Versions: {_versions(beside)}; {date.today()}.",
        "",
        *by_opset(outcomes, beside),
        "",
        "## By operator",
        "",
        "| operator | native | fallback | wrong | refused | excluded |",
        "|---|---|---|---|---|---|",
    ]
    for operator, counts in sorted(by_operator.items()):
        lines.append(f"| {operator} | {' | '.join(str(counts[kind] or '') for kind in ORDER)} |")
    lines += ["", SPECIAL_VALUES, "## Why tests are excluded", ""]
    reasons = Counter(o["detail"] for o in outcomes if o["result"] == "excluded")
    lines += [f"- {reason} ({count})" for reason, count in reasons.most_common()]
    lines += ["", "## What fails, and how", ""]
    failed = [o for o in outcomes if o["result"] in ("wrong", "refused")]
    lines += [f"- `{o['name']}` ({o['result']}): {o['detail'].splitlines()[0]}" for o in failed]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the requested tests and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--only", default="", help="part of the tests' names")
    parser.add_argument(
        "--again", default="", help="results or parts of operators to run again: refused,resize"
    )
    parser.add_argument("--engine", default="edgec", choices=[*OURS, *ENGINES], help="what runs the tests")
    parser.add_argument("--beside", nargs="*", default=[], help="results of other engines: tvm=tvm.jsonl")
    parser.add_argument("--until", type=float, default=1e9, help="begin no test after so many seconds")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "operators.md")
    asked = parser.parse_args()
    if asked.again:
        forget(asked.results, asked.again)
    left = run_all(asked.results, asked.only, asked.until, asked.engine)
    if asked.engine != "edgec":
        told = [json.loads(line) for line in _lines(asked.results)]
        print(dict(Counter(one["result"] for one in told)), f"{left} still to be run")
        return
    outcomes = [json.loads(line) for line in _lines(asked.results)]
    beside = {}
    for pair in asked.beside:
        engine, _, file = pair.partition("=")
        beside[engine] = [json.loads(line) for line in _lines(Path(file))]
    text = render(sorted(outcomes, key=lambda o: o["name"]), left, beside)
    asked.document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
