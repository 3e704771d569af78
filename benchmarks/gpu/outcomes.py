"""What a proof on a GPU found, case by case; the file is written anew after every step, so that nothing is lost."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Outcome(msgspec.Struct):
    """What a case gave.

    Attributes:
        network: its name.
        precision: of its products.
        batch: pictures or texts of a call.
        error: the largest difference from the reference, relative to the largest value of its output.
        right: whether that is within the bound of the precision.
        median_ms: of a call from host arrays to host arrays, by side: `edgec`, and of PyTorch where it is installed
            `eager`, `channels last` (with cuDNN's autotuning) and `compiled` (max-autotune).
        resident_ms: of a call from arrays on the GPU to arrays there, by the same sides.
        device_ms: time of the kernels alone, by events, one after the other.
        events_ms: time of a run as a whole by events: copies in, kernels, copies out.
        sanitizer: what compute-sanitizer found; None where it did not run.
        failed: the message, where a case ended with an error.
        notes: which side is missing, and why.
    """

    network: str
    precision: str
    batch: int = 1
    error: float | None = None
    right: bool = False
    median_ms: dict[str, float] = msgspec.field(default_factory=dict)
    resident_ms: dict[str, float] = msgspec.field(default_factory=dict)
    device_ms: float | None = None
    events_ms: float | None = None
    sanitizer: str | None = None
    failed: str = ""
    notes: list[str] = msgspec.field(default_factory=list)


class Results(msgspec.Struct):
    """Outcomes with the machine that gave them."""

    device: str
    target: str
    seconds: float
    outcomes: list[Outcome]

    def write(self, file: Path) -> None:
        """Write them; a reader never sees half of the file."""
        write(file, self)


def write(file: Path, content: msgspec.Struct) -> None:
    """Write a structure as JSON, in one step."""
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1))
    part.replace(file)
