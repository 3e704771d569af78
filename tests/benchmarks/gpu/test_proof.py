"""The proof on a GPU, on this processor: a folder is prepared, run and made a page of, as on the GPU's machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgec.benchmarks.gpu.graph_data import read
from edgec.benchmarks.gpu.outcomes import Results
from edgec.benchmarks.gpu.page import page
from edgec.benchmarks.gpu.plan import Plan
from edgec.benchmarks.gpu.prepare import prepare
from edgec.benchmarks.gpu.run import run
from edgec.runtime.errors import IncompatibleDevice
from edgec.targets import detect
from tests.benchmarks.gpu.emulated import ROOT, make_driver, run_folder, small, torch_beside


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("proof")
    prepare(made, detect().name, ["ds-cnn"], ["fp32"], 900, lambda _: None, batches=(1, 2), wheels=False)
    return made


def test_a_prepared_folder_is_run_by_the_command_and_makes_a_page(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    call = [sys.executable, "-m", "edgec.benchmarks.gpu", "run", str(folder), "--out", str(out)]
    said = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    assert "ds-cnn in fp32: right" in said
    results = msgspec.json.decode(out.read_bytes(), type=Results)
    assert [outcome.batch for outcome in results.outcomes] == [1, 2]
    for outcome in results.outcomes:
        assert outcome.right
        assert outcome.error is not None
        assert outcome.error < 1e-5
        assert outcome.median_ms["edgec"] > 0
        assert outcome.notes  # why PyTorch is not beside
    text = page(results)
    assert "| ds-cnn | fp32 | 2 |" in text
    assert "| yes |" in text


def test_a_machine_without_a_gpu_is_told_at_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgec.benchmarks.gpu.run._kind", lambda *_: "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(IncompatibleDevice, match="NVIDIA driver"):
        run(folder, lambda line: pytest.fail(line), tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()


_SANITIZER = """\
#!/bin/sh
shift 2
exec "$@"
"""


@pytest.mark.long
def test_the_proof_runs_as_on_a_gpu_on_an_emulated_one(tmp_path: Path) -> None:
    """All steps by the folder's command, with stand-ins for compute-sanitizer and for PyTorch's GPU, and once more."""
    folder, out = tmp_path / "proof", tmp_path / "results.json"
    with small():
        prepare(folder, "l4", ["ds-cnn"], ["fp16"], 900, lambda _: None, batches=(1,), wheels=False)
    (tmp_path / "compute-sanitizer").write_text(_SANITIZER)
    (tmp_path / "compute-sanitizer").chmod(0o755)
    around = torch_beside(tmp_path) | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    driver = make_driver(tmp_path)
    for _ in range(2):
        run_folder(folder, driver, out, 600.0, **around)
        results = msgspec.json.decode(out.read_bytes(), type=Results)
        (outcome,) = results.outcomes
        assert outcome.right, outcome
        assert outcome.device_ms
        assert outcome.events_ms
        assert outcome.sanitizer == "no error"
        assert not outcome.notes
        for times in (outcome.median_ms, outcome.resident_ms):
            assert set(times) == {"edgec", "eager", "channels last", "compiled"}
    assert results.seconds < 5  # the second time nothing is left to do
    assert "| ds-cnn | fp16 | 1 |" in page(results)


def test_a_wrong_result_is_told(folder: Path) -> None:
    case = Plan.read(folder).cases[0]
    with np.load(folder / case.arrays) as content:
        arrays = {key: content[key] for key in content.files}
    changed = {key: value + 1 if key.startswith("out.") else value for key, value in arrays.items()}
    np.savez(folder / case.arrays, **changed)
    try:
        said: list[str] = []
        results = run(folder, said.append)
        assert not results.outcomes[0].right
        assert "WRONG" in said[0]
        assert "**no**" in page(results)
    finally:
        np.savez(folder / case.arrays, **arrays)


def test_a_case_that_crashes_leaves_the_others_and_their_results(folder: Path, tmp_path: Path) -> None:
    case = Plan.read(folder).cases[0]
    artifact = folder / case.artifact
    content = artifact.read_bytes()
    artifact.write_bytes(content[: len(content) // 2])
    try:
        results = run(folder, lambda _: None, tmp_path / "results.json")
    finally:
        artifact.write_bytes(content)
    assert results.outcomes[0].failed
    assert results.outcomes[1].right
    kept = msgspec.json.decode((tmp_path / "results.json").read_bytes(), type=Results)
    assert [bool(one.failed) for one in kept.outcomes] == [True, False]
    assert "failed" in page(kept)


def test_pytorch_computes_the_same_networks(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    from edgec.benchmarks.gpu.torch_network import module_of

    case = Plan.read(folder).cases[1]
    network, constants = read(folder / case.graph, folder / case.constants)
    with np.load(folder / case.arrays) as arrays, torch.inference_mode():
        found = module_of(network, constants, torch.float32)(
            *(torch.from_numpy(arrays[f"in.{name}"]) for name in network.inputs)
        )
        for name, one in zip(network.outputs, found, strict=True):
            np.testing.assert_allclose(one.numpy(), arrays[f"out.{name}"], atol=1e-5)


def test_without_a_gpu_the_page_says_so() -> None:
    assert "No GPU was at hand" in page(None)
    assert page(None) == (ROOT / "docs" / "benchmarks" / "gpu.md").read_text()
