"""Read an ONNX file that may be damaged or hostile: everything is checked before it is trusted.

Protobuf guarantees little about a model. Before any other library sees it, these checks have passed: tensors hold as
many bytes as their shapes require, element types are known, external data is in the model's folder, functions are not
recursive, and the graph has no cycles.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto

from edgec.compiler.errors import ModelError, opening
from edgec.compiler.frontends.interface import Loaded
from edgec.compiler.frontends.onnx.checks import (
    check_functions,
    check_names,
    check_tensor,
    check_types,
    check_versions,
)
from edgec.compiler.frontends.onnx.graphs import nodes_of, tensors_of
from edgec.compiler.frontends.onnx.grids import check_grids
from edgec.compiler.frontends.onnx.node_order import with_sorted_nodes
from edgec.compiler.frontends.onnx.opsets import type_attributes
from edgec.compiler.options import CompileOptions


def load(path: Path, options: CompileOptions) -> Loaded:
    """The front end of ONNX itself; see `read_model`."""
    return Loaded(*read_model(path))


def read_model(path: Path) -> tuple[ModelProto, str]:
    """Read and check an ONNX file with its external data.

    Returns:
        the model with functions inlined and nodes in topological order, and the digest `sha256:…` of the file and
        its external data.

    Raises:
        ModelError: the file is unreadable, truncated, not ONNX, inconsistent or malicious.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(content)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError(
            f"{path}: not an ONNX model, or cut short ({len(content)} bytes); export or download it again"
        ) from error
    if not model.HasField("graph") or not model.graph.output:
        raise ModelError(f"{path}: has no graph with outputs: it is not an ONNX model, or cut short")
    check_versions(model, path)
    type_attributes(nodes_of(model, path))
    check_names(model, path)
    check_types(model, path)
    check_functions(model, path)
    for tensor in tensors_of(model, path):
        if tensor.data_location == TensorProto.EXTERNAL:
            digest.update(_load_external(tensor, path))
        check_tensor(tensor, path)
    if model.functions:
        model = _inline(model, path)
    model = with_sorted_nodes(model, path)
    check_grids(model, path)
    return model, f"sha256:{digest.hexdigest()}"


def _load_external(tensor: TensorProto, path: Path) -> bytes:
    """Read a tensor's data from its file into the tensor and return them."""
    info = {entry.key: entry.value for entry in tensor.external_data}
    location = info.get("location", "")
    folder = path.resolve().parent
    file = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
        raise ModelError(
            f"{path}: tensor {tensor.name!r} refers to data outside the model's folder: {location!r}"
        )
    if not file.is_file():
        raise ModelError(
            f"{path}: the external data file {location!r} of tensor {tensor.name!r} is missing; "
            f"put it beside the model, in {folder}"
        )
    try:
        offset, size = int(info.get("offset", "0")), file.stat().st_size
        length = int(info["length"]) if "length" in info else size - offset
    except ValueError as error:
        raise ModelError(
            f"{path}: tensor {tensor.name!r} has external data at an invalid offset or of an invalid length"
        ) from error
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"{path}: tensor {tensor.name!r} refers to bytes {offset} to {offset + length} of {location!r}, "
            f"which has {size}; the data file is cut short or belongs to another model"
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        data: bytes = stream.read(length)
    tensor.raw_data = data
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.DEFAULT
    return data


def _inline(model: ModelProto, path: Path) -> ModelProto:
    try:
        from onnx import inliner

        return inliner.inline_local_functions(model)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: its functions cannot be inlined: {opening(error)}") from error
