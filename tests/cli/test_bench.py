"""`edgec bench`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Edgec


def test_bench_an_artifact_beside_onnx_runtime(edgec: Edgec, folder: Path, artifact: Path) -> None:
    bench = edgec("bench", artifact, "small.onnx", "--runs", "20", "--threads", "1", "--json", cwd=folder)
    measured = json.loads(bench.stdout)
    assert measured["threads"] == 1
    assert set(measured["latency"]) == {"edgec", "onnxruntime"}
    assert measured["latency"]["edgec"]["runs"] >= 20
    assert measured["speedup"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give an .edge file or --suite"),
        (("--suite", "--compile-only"), "requires --compiled"),
        (("--suite", "--tune", "some"), "none, fast or full"),
        (("--suite", "--no-strangers", "--only", "no-such-net"), "no network matches"),
    ],
)
def test_options_that_do_not_fit_are_refused(edgec: Edgec, arguments: tuple[str, ...], message: str) -> None:
    done = edgec("bench", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
