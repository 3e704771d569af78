"""The front end of PyTorch: exported programs (.pt2) and TorchScript, both by way of torch.onnx."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from edgec.compiler.errors import InputShapeError, ModelError, opening
from edgec.compiler.frontends import formats
from edgec.compiler.frontends.interface import Loaded, read_file, require
from edgec.compiler.frontends.source import State
from edgec.compiler.frontends.torch.buffers import carry_buffers
from edgec.compiler.options import CompileOptions

EXTRA = "torch"
OPSET = 18
Arrays = Mapping[str, npt.NDArray[np.generic]]


def load(path: Path, options: CompileOptions) -> Loaded:
    """Read a program saved with `torch.export.save`, or with `torch.jit.save`.

    TorchScript does not declare its input shapes: inputs are named by its `forward` and need `input_shapes`.

    Raises:
        ModelError: damaged, or with operators that torch.onnx does not support.
        InputShapeError: TorchScript without the shapes of its inputs.
        ToolMissing: PyTorch or onnxscript is not installed.
    """
    torch = require("torch", EXTRA, path)
    require("onnxscript", EXTRA, path)
    _, digest = read_file(path)
    script = formats.detect(path) is formats.TORCH_SCRIPT
    states: list[State] = []
    if script:
        model, run = _from_script(torch, path, options)
    else:
        model, run, states = _from_program(torch, path)
    taken, made = {state.input for state in states}, {state.output for state in states}
    inputs = [value.name for value in model.graph.input if value.name not in taken]
    outputs = [value.name for value in model.graph.output if value.name not in made]
    kind = _TorchWithState if states else _Torch
    return Loaded(model, digest, kind(torch, run, inputs, outputs), tuple(states))


def _from_program(torch: ModuleType, path: Path) -> tuple[ModelProto, Any, list[State]]:
    try:
        program = torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, AttributeError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: cannot be loaded as an exported program: {opening(error)}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: holds objects that are not loaded for safety: {opening(error)}") from error
    with _quiet(), _readable(torch, path):
        exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, optimize=False)
        states = carry_buffers(exported)
        exported.optimize()
        return exported.model_proto, program.module(), states


def _from_script(torch: ModuleType, path: Path, options: CompileOptions) -> tuple[ModelProto, Any]:
    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path}: cannot be loaded as TorchScript: {opening(error)}") from error
    shapes = options.fixed_shapes()
    arguments = module.forward.schema.arguments[1:]  # the first is the module
    _check_arguments(module, arguments, path)
    names = [a.name for a in arguments if not a.has_default_value() or a.name in shapes]
    missing = [name for name in names if name not in shapes]
    if missing:
        asked = " ".join(f"--input {name}:SIZES" for name in missing)
        raise InputShapeError(
            f"TorchScript does not declare the shapes of its inputs; give them with {asked} (such as 1x3x224x224)"
        )
    example = tuple(torch.zeros(shapes[name]) for name in names)
    stream = io.BytesIO()
    _check_state(torch, module, example, path)
    with _quiet(), _readable(torch, path), torch.no_grad():
        torch.onnx.export(module, example, stream, dynamo=False, opset_version=OPSET - 1, input_names=names)
    return onnx.load_model_from_string(stream.getvalue()), module


def _check_arguments(module: Any, arguments: list[Any], path: Path) -> None:  # noqa: ANN401 - a ScriptModule
    """Reject a module that takes numbers or texts: ONNX has only tensors as inputs."""
    others = [
        f"{a.name} ({a.type})" for a in arguments if not a.has_default_value() and str(a.type) != "Tensor"
    ]
    if others:
        kept = _assigned(module)
        state = f", and keeps {', '.join(kept)} between calls" if kept else ""
        raise ModelError(
            f"{path}: its forward takes {', '.join(others)}, which is not a tensor{state}. Script a module whose "
            "forward takes and returns tensors only (often a part of this one, see named_children()), and compile that"
        )


def _check_state(torch: ModuleType, module: Any, example: tuple[Any, ...], path: Path) -> None:  # noqa: ANN401
    """Reject a module that keeps state between calls: an exported graph starts afresh each time."""
    kept = _assigned(module)
    if not kept:
        return
    trial = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    given = [torch.rand(value.shape, generator=generator) for value in example]
    with torch.no_grad(), _readable(torch, path):
        first, second = (_flat(trial(*given)) for _ in range(2))
    if not all(torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        raise ModelError(
            f"{path}: returns other results when called again with the same inputs, as it keeps {', '.join(kept)} "
            "between calls. Keep it in buffers and save the module with torch.export (.pt2), whose buffers become "
            "states; or script a module whose forward takes and returns it"
        )


def _assigned(module: Any) -> list[str]:  # noqa: ANN401 - a ScriptModule
    """The attributes that the module's forward assigns to."""
    graph = module.inlined_graph  # its nodes live as long as it does
    return sorted({node.s("name") for node in graph.findAllNodes("prim::SetAttr", True)})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress reports off the terminal."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryFile():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _readable(torch: ModuleType, path: Path) -> Iterator[None]:
    """Report an error of torch.onnx in one line instead of fifty."""
    errors = (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError, TypeError, NotImplementedError)
    try:
        yield
    except errors as error:
        raise ModelError(
            f"{path}: torch.onnx cannot export this model: {opening(error)}. Export it to ONNX in the Python that "
            "defines it, or change the part that it names"
        ) from error


class _Torch:
    """PyTorch as the reference."""

    def __init__(self, torch: ModuleType, run: Any, inputs: list[str], outputs: list[str]) -> None:  # noqa: ANN401
        self._torch, self._run, self._inputs, self._outputs = torch, run, inputs, outputs
        self.description = f"PyTorch {torch.__version__}"

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """The outputs by their names in the exported model."""
        given = [self._torch.from_numpy(np.asarray(inputs[name], order="C")) for name in self._inputs]
        with self._torch.no_grad():
            results = _flat(self._run(*given))
        # copies: an output may be a buffer that the next run changes
        return {name: x.numpy().copy() for name, x in zip(self._outputs, results, strict=True)}

    def spread(self, inputs: Arrays) -> dict[str, float]:
        """Empty: none is known."""
        return {}


class _TorchWithState(_Torch):
    """PyTorch with a module whose buffers change: each run, and each sequence of runs, begins with the stored ones."""

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """The outputs of a first run."""
        return self._fresh().run(inputs)

    def run_steps(
        self, steps: Sequence[Arrays], carried: Mapping[str, str]
    ) -> list[dict[str, npt.NDArray[np.generic]]]:
        """The outputs of runs one after the other; see `edgec.compiler.frontends.source.KeepsState`."""
        once, outputs = self._fresh(), list[dict[str, npt.NDArray[np.generic]]]()
        for inputs in steps:
            taken = {name: outputs[-1][made] for name, made in carried.items()} if outputs else {}
            outputs.append(once.run({**inputs, **taken}))
        return outputs

    def _fresh(self) -> _Torch:
        return _Torch(self._torch, copy.deepcopy(self._run), self._inputs, self._outputs)


def _flat(value: Any) -> list[Any]:  # noqa: ANN401 - whatever the model returns
    if isinstance(value, Mapping):
        return [x for item in value.values() for x in _flat(item)]
    if isinstance(value, list | tuple):
        return [x for item in value for x in _flat(item)]
    return [value]
