"""What is carried to a GPU's machine."""

from __future__ import annotations

from pathlib import Path

import msgspec

NETWORKS = (
    "resnet18", "resnet50", "mobilenetv2", "mobilenetv3-small", "efficientnet-lite0",
    "yolov8n-320", "vit-tiny", "bert-mini", "ds-cnn", "unet",
)  # fmt: skip
SMALL = ("ds-cnn", "mobilenetv3-small")  # under compute-sanitizer, which is a hundred times slower
PRECISIONS = ("fp32", "fp16")
BOUNDS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 6e-2}  # of the largest value of an output


class Case(msgspec.Struct, frozen=True):
    """A compiled network.

    Attributes:
        network: its name in the zoo.
        precision: of its products.
        artifact: file.
        arrays: `.npz` file of inputs (`in.NAME`) and of ONNX Runtime's outputs on a processor (`out.NAME`).
    """

    network: str
    precision: str
    artifact: str
    arrays: str


class Plan(msgspec.Struct, frozen=True):
    """All cases of a folder.

    Attributes:
        target: what they are compiled for.
        seconds: how long `run` takes at most, all cases together.
        cases: in the order in which they run.
    """

    target: str
    seconds: float
    cases: tuple[Case, ...]

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan in a prepared folder."""
        return msgspec.json.decode((folder / "plan.json").read_bytes(), type=cls)

    def write(self, folder: Path) -> None:
        """Write the plan into a folder."""
        (folder / "plan.json").write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
