"""`edgec run` on arrays; images and sounds are in `tests/runtime/test_real_models.py`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Edgec


def test_run_on_arrays_prints_and_saves_the_outputs(edgec: Edgec, artifact: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    done = edgec("run", artifact, "in.npz", "-o", "out.npz", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = np.asarray(json.loads(done.stdout)["outputs"]["y"], np.float32)
    with np.load(tmp_path / "out.npz") as saved:
        np.testing.assert_allclose(saved["y"], printed, rtol=1e-6)
    assert printed.shape == (1, 8, 10, 10)
    assert printed.min() == 0, "there is a ReLU at the end"


@pytest.mark.parametrize(
    ("source", "options", "status", "message"),
    [
        ("in.txt", (), 2, "unknown file type; supported extensions are"),
        ("in.npz", ("-o", "out.png"), 2, "only the results of an image can be drawn"),
        ("none.npz", (), 5, "none.npz: cannot be read"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    edgec: Edgec,
    artifact: Path,
    tmp_path: Path,
    source: str,
    options: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    (tmp_path / "in.txt").touch()
    np.savez(tmp_path / "in.npz", x=np.zeros((1, 3, 12, 12), np.float32))
    done = edgec("run", artifact, source, *options, cwd=tmp_path)
    assert done.returncode == status
    assert message in done.stderr
    assert not (tmp_path / "out.png").exists()
