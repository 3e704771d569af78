"""The examples of docs/extending.md, run as they stand there."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import helper

from edgec.targets import detect, load_target
from tests.fleet.servers import FleetServer

DOCUMENT = Path(__file__).parent.parent / "docs" / "extending.md"


def block(title: str) -> str:
    found = re.search(rf"^```\w+ title={re.escape(title)}\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    assert found, f"docs/extending.md has no example titled {title}"
    return found[1]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports an example as a module; what it registers in tables of ours goes with the test."""
    from edgec.compiler.backends.cpu import specs
    from edgec.compiler.frontends.relax.converters import registry
    from edgec.targets import device_kinds

    for table in (specs._SPECS, registry.CONVERTERS, device_kinds.DEVICE_KINDS):
        for name, value in list(table.items()):  # a restore point for each, and for what is added
            monkeypatch.setitem(table, name, value)
    before = [(table, set(table)) for table in (specs._SPECS, registry.CONVERTERS, device_kinds.DEVICE_KINDS)]

    def load(title: str) -> Any:
        name = f"example_{title}"
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
        exec(compile(block(title), f"{DOCUMENT.name}:{title}", "exec"), module.__dict__)
        return module

    yield load
    for table, names in before:
        for name in set(table) - names:
            del table[name]


def test_every_example_is_run_here() -> None:
    titles = re.findall(r"^```\w+ title=(\S+)$", DOCUMENT.read_text(), re.M)
    source = Path(__file__).read_text()
    assert titles
    assert [title for title in titles if f'"{title}"' not in source] == []
    # Each section has one.
    assert len(titles) == DOCUMENT.read_text().count("\n## ")


def test_files_that_the_document_names_exist() -> None:
    named = set(
        re.findall(
            r"`((?:compiler|runtime|targets|device_agent|fleet|protocol|tests)/[\w/.-]+)`",
            DOCUMENT.read_text(),
        )
    )
    invented = {name for name in named if "cuda" in name or re.search(r"NAME|KIND|FAMILY", name)}
    root = DOCUMENT.parent.parent
    assert len(named - invented) > 10
    assert [name for name in sorted(named - invented) if not (root / name).exists()] == []


def test_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgec.compiler.backends.registry import backend_of
    from edgec.compiler.options import CompileOptions
    from edgec.compiler.pipeline import compile_model
    from tests.compiler.small_models import model_of, save

    (tmp_path / "orange-pi.toml").write_text(block("orange-pi.toml"))
    monkeypatch.setenv("EDGEC_TARGETS", str(tmp_path))
    target = load_target("rk3566")
    assert (target.name, target.cores, target.arch) == ("orange-pi-3b", 4, "aarch64")
    assert target.core == load_target("cortex-a55").core
    assert backend_of(target).target is target
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    path = save(model_of(nodes, {"x": [2, 8]}, ["y"]), tmp_path)
    options = CompileOptions(verify=False, cache_dir=tmp_path / "cache")
    made = compile_model(path, target, options, output=tmp_path / "m.edge")
    assert made.lowered.code[18:20] == b"\xb7\x00"  # EM_AARCH64


def test_an_operator(example: Any, tmp_path: Path) -> None:
    from edgec.compiler.frontends import load_source, to_relax
    from edgec.compiler.options import CompileOptions
    from tests.compiler.onnx_models import assert_same
    from tests.compiler.small_models import model_of, save

    nodes = [
        helper.make_node("Tanh", ["x"], ["near"]),
        helper.make_node("CDist", ["near", "points"], ["y"], domain="com.microsoft", metric="euclidean"),
    ]
    rng = np.random.default_rng(0)
    points = rng.standard_normal((5, 16)).astype(np.float32)
    model = model_of(nodes, {"x": [3, 16]}, ["y"], {"points": points})
    path = save(model, tmp_path)
    source = load_source(path, CompileOptions())
    assert to_relax(source, fallback_allowed=True).segments  # without it, ONNX Runtime runs the node
    example("operator")
    assert not to_relax(source, fallback_allowed=True).segments
    assert_same(model, {"x": rng.standard_normal((3, 16)).astype(np.float32)}, tmp_path, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_template(example: Any, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    from edgec.compiler.backends.cpu.templates import workloads
    from tests.compiler.backends.cpu.kernels import run

    made, target = example("template"), detect()
    monkeypatch.setattr(workloads, "TEMPLATES", [*workloads.TEMPLATES, made.TEMPLATE])
    spec = made.ColumnSumSpec(rows=37, cols=12 * target.fp32_lanes, lanes=target.fp32_lanes)
    func = made.column_sum(spec)
    work = workloads.workload_of(func, str(func.attrs["edgec"]), ("column_sum",), target, threads)
    assert work is not None
    assert (work.kind, work.flops) == ("column_sum", spec.rows * spec.cols)
    assert [schedule.vectors for schedule in work.candidates][-1] == 1
    data = np.random.default_rng(0).standard_normal((spec.rows, spec.cols)).astype(np.float32)
    for schedule in work.candidates:
        np.testing.assert_allclose(run(work.emit(schedule), target, data), data.sum(0), atol=1e-5)


def test_a_data_type(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgec.compiler.backends.cpu import compute, dot_instructions
    from edgec.compiler.backends.cpu.specs import DenseSpec
    from edgec.compiler.backends.cpu.templates import dense
    from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
    from edgec.compiler.operands import operands as types
    from tests.compiler.backends.cpu.kernels import run

    made, target = example("operands"), detect()
    monkeypatch.setitem(dot_instructions.INSTRUCTIONS, "udot", made.UDOT)
    chosen = dot_instructions.operands_for(made.UINT8, target)
    monkeypatch.setitem(types.OPERANDS, made.UINT8.name, made.UINT8)
    monkeypatch.setitem(types.OPERANDS, chosen.name, chosen)
    assert (chosen == made.UINT8) == ("dotprod" in target.features)
    lanes, rng = target.fp32_lanes, np.random.default_rng(0)
    spec = DenseSpec(rows=3, inner=20, cols=2 * lanes, lanes=lanes, dtype="int32", operands=chosen)
    data = rng.integers(0, 256, (spec.rows, spec.inner)).astype(np.uint8)
    weights = rng.integers(0, 256, (spec.inner, spec.cols)).astype(np.uint8)
    packed = chosen.pack(np.ascontiguousarray(weights.reshape(spec.inner, 2, lanes).swapaxes(0, 1)))
    epilogue = split_epilogue(compute.dense(spec))
    for schedule in dense.candidates(spec, target, 1)[:3]:
        got = run(dense.emit(spec, epilogue, schedule, 1), target, data, packed)
        np.testing.assert_array_equal(got, data.astype(np.int64) @ weights)


def test_a_back_end(example: Any) -> None:
    from edgec.compiler.backends.registry import backend_of
    from edgec.runtime.device import device_of

    example("backend")
    target = dataclasses.replace(detect(), device_kind="numpy")
    assert type(backend_of(target)).__name__ == "NumpyBackend"
    device = device_of("numpy")
    buffer = device.allocate((2,), "float32")
    device.copy_in(np.ones(2, np.float32), buffer)
    device.synchronise()
    assert device.copy_out(buffer).tolist() == [1, 1]


def test_a_rule(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgec.device_agent.config.rules import Rule
    from edgec.device_agent.inference import rules
    from tests.device_agent.inference.test_rules import track

    monkeypatch.setitem(rules.EVALUATORS, "presence", example("rule").Crowding)
    book = rules.RuleBook([Rule(name="crowd", kind="presence", score=0.2)], "cam-")
    found = []
    for second, gap in enumerate((50.0, 10.0, 5.0, 60.0)):
        found += book.update([track("1", 0), track("2", gap)], {}, float(second), (100.0, 100.0))
    assert [(f.rule, f.phase, f.key, round(f.value, 2)) for f in found] == [
        ("crowd", "new", "cam-crowd-1", 0.1),
        ("crowd", "end", "cam-crowd-1", 0.6),
    ]


def test_a_page(tmp_path: Path) -> None:
    """In a server's process of its own, as a signed-in browser gets it."""
    (tmp_path / "by_target.py").write_text(block("page"))
    entry = tmp_path / "serve.py"
    entry.write_text(
        "import by_target\n"
        "from edgec.cli.main import main\n"
        "from edgec.fleet.dashboard import mount, shell\n"
        "mount.PAGES += (by_target,)\n"
        "shell.NAV += (('/by-target', 'Targets'),)\n"
        "main()\n"
    )
    server = FleetServer(tmp_path / "data", program=entry).start()
    try:
        for number in range(3):
            server.enroll(f"cam-{number}", target="rpi5")
        with httpx.Client(base_url=server.url) as browser:
            assert browser.get("/by-target").headers["location"].startswith("/login")
            assert browser.post("/api/v1/session", json={"token": server.token}).status_code == 204
            page = browser.get("/by-target").text
        assert "the fleet by hardware" in page
        assert re.search(r"rpi5.{0,80}3", page)
    finally:
        server.stop()
