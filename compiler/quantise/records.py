"""Rows of the arrays in an `.npz` file, read one after the other: a file may be larger than the memory."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgec.compiler.quantise.errors import CalibrationError


def members(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and element type of each array in the file.

    Raises:
        CalibrationError: not an `.npz` file of plain arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for name in archive.namelist():
                with archive.open(name) as file:
                    shape, fortran, dtype = _header(file)
                if fortran or dtype.hasobject:
                    raise ValueError(f"{name} is stored by columns, or holds Python objects")
                found[name.removesuffix(".npy")] = shape, dtype
            return found
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"{path}: not an .npz file of arrays ({error})") from error


def rows(path: Path, names: list[str]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The rows along the first axis of the named arrays, together, one at a time."""
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        files = {name: stack.enter_context(archive.open(f"{name}.npy")) for name in names}
        headers = {name: _header(file) for name, file in files.items()}
        for _ in range(min(shape[0] for shape, _, _ in headers.values())):
            row = {}
            for name, (shape, _, dtype) in headers.items():
                content = files[name].read(math.prod(shape[1:]) * dtype.itemsize)
                row[name] = np.frombuffer(content, dtype).reshape(shape[1:])
            yield row


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran and len(shape) > 1, dtype
