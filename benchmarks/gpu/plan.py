"""What is carried to a GPU's machine."""

from __future__ import annotations

from pathlib import Path

import msgspec

NETWORKS = (
    "resnet18", "resnet50", "mobilenetv2", "mobilenetv3-small", "efficientnet-lite0",
    "yolov8n-320", "vit-tiny", "bert-mini", "ds-cnn", "unet",
)  # fmt: skip
SMALL = ("ds-cnn", "mobilenetv3-small")  # under compute-sanitizer, which is a hundred times slower
PRECISIONS = ("fp16", "fp32")
BATCHES = (1, 8)
NO_SANITIZER = "compute-sanitizer is not installed"
NO_TIME = "no time left for"
NO_TORCH = ("PyTorch is not installed", "PyTorch has no GPU here")
GOAL = ("resnet18", "resnet50", "mobilenetv2", "yolov8n-320", "vit-tiny", "bert-mini")  # beside PyTorch first
BOUNDS = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 2e-2, "bf16": 6e-2}  # of the largest value of an output


class Case(msgspec.Struct, frozen=True):
    """A compiled network.

    Attributes:
        network: its name in the zoo.
        precision: of its products.
        batch: pictures or texts of a call.
        artifact: file.
        arrays: `.npz` file of inputs (`in.NAME`) and of ONNX Runtime's outputs on a processor (`out.NAME`).
        graph: the network as data (`graph_data`), for PyTorch's side.
        constants: its weights.
    """

    network: str
    precision: str
    batch: int
    artifact: str
    arrays: str
    graph: str
    constants: str

    @property
    def label(self) -> str:
        """Its name in reports."""
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        return f"{self.network} in {self.precision}{batch}"


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
