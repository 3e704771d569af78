"""Buffers that an exported program changes become states, beside PyTorch's own."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.compiler.frontends.load import load_source
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import detect

torch = pytest.importorskip("torch", reason="optional: PyTorch is missing: pip install 'edgec[torch]'")
pytest.importorskip("onnxscript", reason="optional: onnxscript is missing: pip install 'edgec[torch]'")

QUICK = CompileOptions(tune="none", threads=1)


class Smoother(torch.nn.Module):  # type: ignore[misc,name-defined]  # untyped base
    """Keeps the last four inputs, counts its runs, remembers its last input, and returns a state as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("recent", torch.linspace(-1, 1, 32).reshape(1, 4, 8))
        self.register_buffer("count", torch.tensor(3, dtype=torch.int64))
        self.register_buffer("last", torch.zeros(1, 8))
        self.register_buffer("scale", torch.full((8,), 2.0))
        self.register_buffer("unread", torch.zeros(3), persistent=False)
        self.layer = torch.nn.Linear(8, 3)

    def forward(self, x):  # type: ignore[no-untyped-def]
        self.recent.copy_(torch.cat([self.recent[:, 1:], x[:, None]], 1))
        self.count.add_(1)
        self.unread.add_(1)
        before = self.last.clone()
        self.last.copy_(x)
        mean = self.layer(self.recent.mean(1) * self.scale)
        return mean, self.count.to(torch.float32) * (x - before), self.recent


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    module = Smoother().eval()
    path = tmp_path_factory.mktemp("program") / "smoother.pt2"
    torch.export.save(torch.export.export(copy.deepcopy(module), (torch.rand(1, 8),)), path)
    return path, module


def test_changed_buffers_are_the_states_with_their_stored_values(saved: tuple[Path, torch.nn.Module]) -> None:
    source = load_source(saved[0], CompileOptions())
    found = {state.input: state for state in source.states}
    assert set(found) == {"recent", "count", "last"}, "neither constant ones nor those that nothing reads"
    assert found["recent"].initial is not None
    np.testing.assert_allclose(found["recent"].initial.reshape(-1), np.linspace(-1, 1, 32), rtol=1e-6)
    assert found["count"].initial == 3
    assert any("the variable 'recent', float32[1, 4, 8]" in note for note in source.notes)


def test_a_session_is_the_module_run_by_run(saved: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    path, module = saved
    result = compile_model(path, detect(), QUICK, output=tmp_path / "smoother.edge")
    assert result.evidence["steps"] == 8
    assert result.evidence["reference"].startswith("PyTorch")
    rng = np.random.default_rng(0)
    with rt.load(result.artifact, threads=1) as model:
        session, own = model.session(), copy.deepcopy(module)
        names = [spec.name for spec in session.outputs]
        assert [spec.name for spec in session.inputs] == ["x"]
        for _ in range(12):
            x = rng.standard_normal((1, 8)).astype(np.float32)
            outputs = session.run({"x": x})
            with torch.no_grad():
                expected = [value.clone() for value in own(torch.from_numpy(x))]
            for name, value in zip(names, expected, strict=True):
                np.testing.assert_allclose(outputs[name], value.numpy(), rtol=1e-5, atol=1e-5)
        assert session.states()["count"] == 15
