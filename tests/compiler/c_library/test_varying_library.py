"""C libraries of models with branches, loops and sizes known only at run time: as Python computes, bit by bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgec.compiler.c_library.limits import NoCLibrary
from edgec.targets import detect, load_target
from tests.compiler.c_library.harness import build, driver, python_outputs, run_driver, run_sized, same
from tests.compiler.c_library.models import repeating
from tests.compiler.c_library.test_varying import CASES, collecting


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_python(case: str, tmp_path: Path) -> None:
    make, inputs, options = CASES[case]
    built = build(make(), detect(), tmp_path, **options)
    expected, program = python_outputs(built, inputs), driver(built, "-DSIZED", "-DOWN_MEMORY")
    for threads in (1, 2):
        found, told = run_sized(built, program, inputs, threads=threads)
        assert same(found, expected)
        assert [{k: v.shape for k, v in one.items()} for one in found] == [
            {k: v.shape for k, v in one.items()} for one in expected
        ]
        assert 0 < told["stack"] <= told["stated"]


def test_outputs_of_fixed_sizes_go_where_the_caller_says(tmp_path: Path) -> None:
    make, inputs, _ = CASES["branch"]
    built = build(make(), detect(), tmp_path)
    found, _ = run_driver(built, driver(built), inputs, skew=4)
    assert same(found, python_outputs(built, inputs))


def test_loops_that_collect_rows_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NoCLibrary, match=r"sequences of tensors .* as 'again' \(Loop\) may make"):
        build(collecting(), detect(), tmp_path)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_valgrind_finds_nothing(tmp_path: Path) -> None:
    built = build(repeating(), load_target("x86-64-v3"), tmp_path)
    runs = [{"x": np.ones(4, np.float32), "times": np.array(3, np.int64)}]
    valgrind = ["valgrind", "-q", "--leak-check=full", "--error-exitcode=9"]
    run_sized(built, driver(built, "-DSIZED"), runs, before=valgrind)
