"""MediaPipe's bundles (`.task`): archives of TensorFlow Lite models, which may hold further bundles."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edgec.compiler.errors import ModelError
from edgec.compiler.frontends.formats import MAGIC_TFLITE, file_above
from edgec.compiler.frontends.interface import Loaded
from edgec.compiler.frontends.tflite.load import load_content
from edgec.compiler.options import CompileOptions

MOST_BYTES = 4 << 30  # of one member, unpacked
MOST_DEPTH = 3
SHOWN = 12


def load(path: Path, options: CompileOptions) -> Loaded:
    """Read a model in a bundle.

    Args:
        path: of the bundle, if it holds one model; else the bundle's path and the model's name in it, as in
            `face_landmarker.task/face_detector.tflite`.
        options: see `edgec.compiler.frontends.tflite.load.load`.

    Raises:
        ModelError: damaged, without models, or it holds several and none is named.
        UnsupportedModel, ToolMissing: see `edgec.compiler.frontends.tflite.load.load`.
    """
    bundle = file_above(path) or path
    wanted = path.relative_to(bundle).as_posix() if path != bundle else ""
    try:
        content = bundle.read_bytes()
        models = dict(_models(content, "", 0))
    except OSError as error:
        raise ModelError(f"{bundle}: cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError(f"{bundle}: is a damaged archive; download it again ({error})") from error
    if not models:
        raise ModelError(f"{bundle}: holds no TensorFlow Lite model")
    name = wanted or (next(iter(models)) if len(models) == 1 else "")
    if name not in models:
        listed = ", ".join(list(models)[:SHOWN]) + (
            f" and {len(models) - SHOWN} more" if len(models) > SHOWN else ""
        )
        told = f"holds no {wanted!r}" if wanted else f"holds {len(models)} models"
        raise ModelError(f"{bundle}: {told}; name one of {listed}, as {bundle.name}/{next(iter(models))}")
    model = models[name]
    return load_content(model, f"sha256:{hashlib.sha256(model).hexdigest()}", path, options)


def _models(content: bytes, within: str, depth: int) -> Iterator[tuple[str, bytes]]:
    """The models in an archive by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if member.file_size > MOST_BYTES:
                raise ValueError(f"{member.filename} would have {member.file_size:,} bytes")
            with archive.open(member) as file:
                head = file.read(8)
                name = str(PurePosixPath(within) / member.filename)
                if head[4:8] == MAGIC_TFLITE:
                    yield name, head + file.read()
                elif head[:4] == b"PK\x03\x04" and depth < MOST_DEPTH:
                    yield from _models(head + file.read(), name, depth + 1)
