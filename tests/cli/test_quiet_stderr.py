"""TVM's warnings and LiteRT's reports are dropped from standard error, and nothing else is."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
from onnx import helper

from tests.cli.conftest import Edgec
from tests.compiler.small_models import model_of, save

WARNING = "[06:29:21] /project/src/tirx/op/op.cc:275: Warning: Detected pow(x, y)"
REPORT = "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
SCRIPT = f"""
import os, subprocess, sys
from edgec.cli.quiet_stderr import without_notices
os.write(2, b"before\\n")
try:
    with without_notices():
        os.write(2, {WARNING!r}.encode() + b"\\nfrom C\\nINFO: from C\\n")
        os.write(2, {REPORT!r}.encode() + b"\\n")
        print("from Python", sys.stderr.isatty(), file=sys.stderr)
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'from a child\\\\n')"])
        {{}}
except ValueError:
    pass
os.write(2, b"after\\n")
print(sys.stderr.fileno(), file=sys.stderr)
"""


def told(last: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.replace("{}", last)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_only_warnings_of_tvm_and_reports_of_litert_are_dropped() -> None:
    for last in ("pass", "raise ValueError"):
        done = told(last)
        assert done.returncode == 0, done.stderr
        lines = {"before", "from C", "INFO: from C", "from Python False", "from a child", "after", "2"}
        assert set(done.stderr.splitlines()) == lines
        assert done.stderr.endswith("after\n2\n")


def test_the_last_words_of_a_process_that_crashes_are_passed_on() -> None:
    done = told("os.write(2, b'last words\\n'); os.abort()")
    assert done.returncode < 0
    assert "last words" in done.stderr


def test_more_than_a_pipe_holds_blocks_nothing() -> None:
    done = told(f"os.write(2, ({WARNING!r} + chr(10)).encode() * 20000)")
    assert done.returncode == 0
    assert "Warning" not in done.stderr


def test_python_still_sees_the_terminal() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", SCRIPT.replace("{}", "pass")], stderr=theirs) as process:
        os.close(theirs)
        assert process.wait(120) == 0
    assert b"from Python True" in os.read(ours, 10000)
    os.close(ours)


def test_a_model_about_which_tvm_warns_compiles_in_silence(edgec: Edgec, tmp_path: Path) -> None:
    node = helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[2, 2], p=3, pads=[1, 1, 0, 0])
    model = save(model_of([node], {"x": [1, 2, 6, 6]}, ["y"], {"unused": np.zeros(1, "float32")}), tmp_path)
    for command in (("inspect", model), ("compile", model, "--tune", "none", "-o", tmp_path / "m.edge")):
        done = edgec(*command)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
