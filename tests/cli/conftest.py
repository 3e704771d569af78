"""The `edgec` command as a user calls it, a small model and artifact, and a fleet to talk to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from onnx import helper

from edgec.cli.extras import EXTRAS
from tests import preloaded
from tests.compiler.onnx_models import model_of, save
from tests.fleet.servers import FleetServer

HIDE = """
import os
from importlib.machinery import PathFinder

hidden = os.environ["EDGEC_TEST_HIDDEN"].split()
find = PathFinder.find_spec.__func__


def find_spec(cls, name, path=None, target=None):
    if any(name == one or name.startswith(one + ".") for one in hidden):
        return None
    return find(cls, name, path, target)


PathFinder.find_spec = classmethod(find_spec)
"""
"""A sitecustomize.py for processes that are not to find certain modules, as if they had never been installed."""


class Edgec(Protocol):
    """Runs `edgec` with arguments, in `cwd`, without `hidden` modules and the modules of the extras `without`."""

    def __call__(
        self,
        *arguments: object,
        cwd: Path | None = None,
        without: Iterable[str] = (),
        hidden: Iterable[str] = (),
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def edgec(tmp_path_factory: pytest.TempPathFactory) -> Edgec:
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("cwd")
    (site / "sitecustomize.py").write_text(HIDE)

    def call(
        *arguments: object,
        cwd: Path | None = None,
        without: Iterable[str] = (),
        hidden: Iterable[str] = (),
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        variables = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | (environment or {})
        gone = [*hidden, *(module for extra in without for module in EXTRAS[extra])]
        if gone:
            variables |= {"PYTHONPATH": str(site), "EDGEC_TEST_HIDDEN": " ".join(gone)}
        return preloaded.run(*arguments, env=variables, cwd=cwd or elsewhere)

    return call


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `small.onnx`, a convolution and a ReLU."""
    place = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("Relu", ["c"], ["y"], name="second"),
    ]
    weights = {"w": rng.standard_normal((8, 3, 3, 3)).astype("float32")}
    save(model_of(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], weights), place, "small.onnx")
    return place


@pytest.fixture(scope="session")
def artifact(edgec: Edgec, folder: Path) -> Path:
    """`small.edge`, compiled from it for inputs of 12 × 12."""
    done = edgec(
        "compile", "small.onnx", "--input", "x:1x3x12x12", "--tune", "none", "-o", "small.edge", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert "equals onnxruntime" in done.stdout
    assert "times its speed" in done.stdout
    return folder / "small.edge"


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """A fleet server, which tests share: each uses names of its own."""
    running = FleetServer(tmp_path_factory.mktemp("fleet") / "data").start()
    yield running
    assert running.stop() == 0, running.log.read_text()


class Operator(Protocol):
    """Runs `edgec` with arguments against the fleet, signed in as its admin; returns what it printed."""

    def __call__(self, *arguments: object, status: int = 0) -> str: ...


@pytest.fixture(scope="session")
def operator(edgec: Edgec, fleet: FleetServer) -> Operator:
    def call(*arguments: object, status: int = 0) -> str:
        access = {"EDGEC_SERVER": fleet.url, "EDGEC_TOKEN": fleet.token}
        done = edgec(*arguments, environment=access)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if status == 0 else done.stderr

    return call
