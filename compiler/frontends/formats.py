"""The formats of model files, recognised by content, and the front end of each."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgec.compiler.errors import ModelError

HEAD_BYTES = 4096
MAX_OBJECTIVE = 256  # bytes of an objective's name in XGBoost's binary format
MAGIC_TFLITE = b"TFL3"
MOST_MEMBERS = 100_000
MOST_GROWTH, GROWTH_FREE_BYTES = 20, 64 << 20  # exporters store weights uncompressed, or they hardly compress
TORCH_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch.save before 1.6


@dataclass(frozen=True)
class Format:
    """A kind of model file.

    Attributes:
        name: as messages give it, such as `TensorFlow Lite`.
        module: the module of the front end within this package; empty where there is none.
        advice: the alternative, where there is no front end.
    """

    name: str
    module: str = ""
    advice: str = ""


ONNX = Format("ONNX", "onnx.read")
TFLITE = Format("TensorFlow Lite", "tflite.load")
BUNDLE = Format("MediaPipe bundle", "tflite.bundle")
XGBOOST = Format("XGBoost", "trees.load")
LIGHTGBM = Format("LightGBM", "trees.load")
PICKLE = Format("scikit-learn", "sklearn.load")
TORCH_PROGRAM = Format("PyTorch program (.pt2)", "torch.load")
TORCH_SCRIPT = Format("TorchScript", "torch.load")
STATE_DICT = Format(
    "PyTorch weights",
    advice="it holds weights without the code of the model. Load it into the model and export that: "
    "torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')",
)
KERAS = Format("Keras", "tensorflow.load")
SAVED_MODEL = Format("TensorFlow SavedModel", "tensorflow.load")
SAFETENSORS = Format(
    "safetensors",
    advice="it holds weights without the graph of the model. Export the model itself to ONNX or .pt2",
)
OPENVINO = Format("OpenVINO IR", advice="it is made from another model; compile that one")


def file_above(path: Path) -> Path | None:
    """The bundle that a path leads into, as in `face_landmarker.task/face_detector.tflite`; None for other paths."""
    return next((above for above in path.parents if above.is_file()), None)


def detect(path: Path) -> Format:
    """The format of a file or folder: by its first bytes, else by its suffix, else ONNX.

    A path that leads into a bundle names one of its models.

    Raises:
        ModelError: a folder that is not a model, an unreadable file, or what stands in place of one after a download.
    """
    if path.is_dir():
        if (path / "saved_model.pb").exists():
            return SAVED_MODEL
        raise ModelError(f"{path}: is a folder, not a model file")
    bundle = file_above(path)
    if bundle is not None:
        if detect(bundle) is not BUNDLE:
            raise ModelError(f"{path}: {bundle} is a file, and no bundle of models")
        return BUNDLE
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    _refuse_substitutes(head, path)
    return _by_content(head, path) or _by_suffix(path) or ONNX


def _refuse_substitutes(head: bytes, path: Path) -> None:
    """Refuse what a download leaves in place of a model, whatever its name."""
    if not head:
        raise ModelError(f"{path}: is empty; export or download it again")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise ModelError(f"{path}: is a pointer of Git LFS, not the model; `git lfs pull` fetches that")
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise ModelError(f"{path}: is a web page, not a model; download the file that the page offers")


def _by_content(head: bytes, path: Path) -> Format | None:
    if head[4:8] == MAGIC_TFLITE:
        return TFLITE
    if head[:4] == b"PK\x03\x04":
        return _by_members(path)
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return KERAS
    if head.startswith(TORCH_LEGACY):
        return STATE_DICT
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and path.suffix != ".onnx":
        return PICKLE
    if head.startswith((b"tree\n", b"tree\r\n")):
        return LIGHTGBM
    if head[:1] == b"{" and (b"learner" in head or b"version" in head[:64]):
        return XGBOOST
    if head[8:9] == b"{" and path.suffix == ".safetensors":
        return SAFETENSORS
    return XGBOOST if _is_xgboost_binary(head) else None


def _is_xgboost_binary(head: bytes) -> bool:
    """Whether a file begins as XGBoost's old binary models do: a header, then the name of an objective."""
    start = 140 if head[:4] == b"binf" else 136
    length = int.from_bytes(head[start : start + 8], "little")
    name = head[start + 8 : start + 8 + length]
    known = name.isascii() and all(c.isalnum() or c in ":_" for c in name.decode("ascii", "replace"))
    return 0 < length <= MAX_OBJECTIVE and len(name) == length and known


def _by_members(path: Path) -> Format | None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise ModelError(f"{path}: is a damaged archive; export or download it again") from error
    unpacked, packed = sum(member.file_size for member in members), path.stat().st_size
    if len(members) > MOST_MEMBERS or unpacked > MOST_GROWTH * packed + GROWTH_FREE_BYTES:
        raise ModelError(
            f"{path}: is an archive of {len(members)} files that would unpack from {packed:,} to {unpacked:,} bytes; "
            "no exporter writes such a file, so it is not unpacked"
        )
    if _holds_tflite(path):
        return BUNDLE
    names = [member.filename for member in members]
    parts = {name.split("/", 1)[-1] for name in names} | set(names)
    if "archive_format" in parts or "serialized_exported_program.json" in parts:
        return TORCH_PROGRAM
    if "constants.pkl" in parts and any("code/" in name for name in names):
        return TORCH_SCRIPT
    if "data.pkl" in parts:
        return STATE_DICT
    if "config.json" in parts and "metadata.json" in parts:
        return KERAS
    return None


def _holds_tflite(path: Path) -> bool:
    """Whether an archive is a bundle: a TensorFlow Lite model is in it, or in an archive in it."""
    if path.suffix.lower() == ".task":
        return True
    with zipfile.ZipFile(path) as archive:
        return any(name.lower().endswith((".tflite", ".task")) for name in archive.namelist())


def _by_suffix(path: Path) -> Format | None:
    suffixes = {
        ".tflite": TFLITE,
        ".lite": TFLITE,
        ".task": BUNDLE,
        ".ubj": XGBOOST,
        ".joblib": PICKLE,
        ".pkl": PICKLE,
        ".pickle": PICKLE,
        ".pt2": TORCH_PROGRAM,
        ".jit": TORCH_SCRIPT,
        ".pth": STATE_DICT,
        ".h5": KERAS,
        ".keras": KERAS,
        ".xml": OPENVINO,
        ".safetensors": SAFETENSORS,
    }
    return SAVED_MODEL if path.name == "saved_model.pb" else suffixes.get(path.suffix.lower())
