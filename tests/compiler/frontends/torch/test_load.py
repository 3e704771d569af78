"""PyTorch's programs and TorchScript, beside PyTorch itself."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edgec.compiler.errors import InputShapeError, ModelError
from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.options import CompileOptions

torch = pytest.importorskip("torch", reason="optional: pip install 'edgec[torch]'")
pytest.importorskip("onnxscript", reason="optional: pip install 'edgec[torch]'")


class Net(torch.nn.Module):  # type: ignore[misc]
    """A little of everything that image models are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.silu(self.norm(self.conv(image)))
        return self.head(x.mean((2, 3))).softmax(-1)


class Counter(torch.nn.Module):  # type: ignore[misc]
    """Remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: torch.Tensor, factor: int = 2) -> torch.Tensor:
        self.total = self.total + x
        return self.total * factor


class Scaled(Counter):
    """Takes a number, too."""

    def forward(self, x: torch.Tensor, factor: int) -> torch.Tensor:
        self.total = self.total + x
        return self.total * factor


def same_as_torch(path: Path, options: CompileOptions) -> None:
    source = load_source(path, options)
    (port,) = source.inputs
    x = np.random.default_rng(1).standard_normal(port.shape).astype("float32")
    assert source.original is not None
    assert source.original.description.startswith("PyTorch")
    (expected,) = source.original.run({port.name: x}).values()
    session = ort.InferenceSession(source.model.SerializeToString())
    np.testing.assert_allclose(session.run(None, {port.name: x})[0], expected, atol=1e-5)
    assert not to_relax(source).segments


def test_an_exported_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = torch.export.export(Net().eval(), (torch.zeros(1, 3, 16, 16),))
    torch.export.save(program, tmp_path / "net.pt2")
    same_as_torch(tmp_path / "net.pt2", CompileOptions())


def test_torchscript_asks_for_what_it_does_not_say(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.jit.script(Net().eval()).save(str(tmp_path / "net.pt"))
    with pytest.raises(InputShapeError, match="--input image:SIZES"):
        load_source(tmp_path / "net.pt", CompileOptions())
    same_as_torch(tmp_path / "net.pt", CompileOptions(input_shapes={"image": (1, 3, 16, 16)}))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Counter, "returns other results when called again.* keeps total between calls"),
        (Scaled, r"takes factor \(int\), which is not a tensor, and keeps total between calls"),
    ],
)
def test_torchscript_that_keeps_state_is_refused(
    module: type[torch.nn.Module], message: str, tmp_path: Path
) -> None:
    torch.jit.script(module().eval()).save(str(tmp_path / "net.pt"))
    with pytest.raises(ModelError, match=message):
        load_source(tmp_path / "net.pt", CompileOptions(input_shapes={"x": (3,)}))


def test_a_damaged_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("net/archive_format", "pt2")
    with pytest.raises(ModelError, match="cannot be loaded as an exported program"):
        load_source(tmp_path / "net.pt2", CompileOptions())
