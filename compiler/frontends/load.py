"""From a model file to a `SourceModel`: find its format, read it, prepare it.

The stages in order: `formats` recognises the format by content; the front end of that format (`onnx`, `tflite`,
`torch`, `tensorflow`, `sklearn`, `trees`) reads the file as ONNX; `onnx.prepare` simplifies it and infers its shapes;
`relax` imports the result into TVM.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends import formats
from edgec.compiler.frontends.constants import bind_constants
from edgec.compiler.frontends.interface import Loaded
from edgec.compiler.frontends.onnx.prepare import prepare
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.frontends.states import keep_windows, with_states
from edgec.compiler.options import CompileOptions, Shape


def load_source(path: Path | str, options: CompileOptions) -> SourceModel:
    """Read a model and make it ready for import.

    Args:
        path: an `.onnx` file of any age, or a model of another framework (see `formats`).
        options: `input_shapes` makes the shapes of the inputs static.

    Raises:
        ModelError: the file is damaged, hostile or not a model.
        ToolMissing: its front end needs a package that is not installed.
        InputShapeError: a shape does not fit, or is needed and missing.
    """
    path = Path(path)
    loaded = read_any(path, options)
    return source_of(loaded, path, options)


def read_any(path: Path, options: CompileOptions) -> Loaded:
    """Read a model of any format as ONNX, without simplifying it or setting shapes.

    Raises:
        ModelError: the file is damaged, or of a format without a front end; the message says what to do instead.
        ToolMissing: the front end needs a package that is not installed; the message names the extra.
    """
    if not path.exists() and formats.file_above(path) is None:
        raise ModelError(f"{path}: no such file")
    kind = formats.detect(path)
    if not kind.module:
        raise ModelError(f"{path}: is a {kind.name} file: {kind.advice}")
    front_end = importlib.import_module(f"edgec.compiler.frontends.{kind.module}")
    loaded: Loaded = front_end.load(path, options)
    return loaded


def source_of(loaded: Loaded, path: Path, options: CompileOptions) -> SourceModel:
    """Make a model that was read ready for import, and find its states; `loaded.model` may be changed.

    Raises:
        InputShapeError: a shape or a declared state does not fit.
    """
    loaded = bind_constants(loaded, options.constants)
    notes = keep_windows(loaded.model, options.states)
    source = prepared(loaded, path, options.input_shapes)
    return with_states(source, loaded.variables, options.states, notes)


def prepared(loaded: Loaded, path: Path, input_shapes: Mapping[str, Shape]) -> SourceModel:
    """Make a model that was read ready for import; `loaded.model` may be changed."""
    from edgec.compiler.frontends.relax.importer import has_converter  # brings TVM with it

    source = prepare(loaded.model, path, loaded.digest, input_shapes, has_converter)
    return replace(source, original=loaded.original or source.original)
