"""Progress of a compilation on the terminal: stage, completed steps and remaining time."""

from __future__ import annotations

from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from edgec.cli.console import err
from edgec.cli.isolation import tell_stage
from edgec.cli.quiet_stderr import without_notices

STAGES = {
    "machine": "measuring the machine",
    "load": "reading the model",
    "import": "importing the graph",
    "graph": "optimising the graph",
    "layout": "choosing layouts",
    "kernels": "scheduling kernels",
    "tune": "timing kernel candidates",
    "tuning": "timing kernel candidates",
    "build": "generating code",
    "link": "linking",
    "verify": "comparing with ONNX Runtime",
    "examples": "reading the calibration data",
    "calibrate": "running the calibration data",
    "compare": "comparing calibrators",
    "refine": "refining weights",
    "held-back": "judging by data held back",
    "sensitivity": "measuring the sensitivity of layers",
    "bound": "giving layers back to floating point",
    "race": "timing the precisions",
    "pack": "writing the artifact",
    "profile": "timing layers",
    "package-lists": "reading the package lists",
    "packages": "fetching packages",
    "unpack": "unpacking packages",
    "wheels": "fetching wheels",
    "package": "packing edgec",
    "unpack-wheels": "unpacking wheels",
    "bytecode": "compiling Python modules",
    "reduce": "cutting the model, seconds",
    "undisturbed": "waiting until the machine is undisturbed",
}


class TerminalProgress:
    """Progress bars on standard error if that is a terminal, and the collected notes at the end.

    With `quiet` it prints neither. In either case, TVM's own warnings are kept from standard error meanwhile.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=quiet or not err.is_terminal,
        )
        self._quiet = quiet
        self._task: TaskID | None = None
        self._stage = ""
        self._notes: list[str] = []
        self._filter = without_notices()

    def __enter__(self) -> TerminalProgress:
        self._filter.__enter__()
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()
        self._filter.__exit__(kind, error, trace)
        for text in () if self._quiet else dict.fromkeys(self._notes):
            err.print(f"note: {text}", soft_wrap=True)

    def _finish(self) -> None:
        if self._task is not None:
            task = next(t for t in self._bars.tasks if t.id == self._task)
            self._bars.update(self._task, total=task.total or 1, completed=task.total or 1)

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage, which completes the previous one."""
        self._finish()
        tell_stage(STAGES.get(name, name))
        self._stage = STAGES.get(name, name)
        self._task = self._bars.add_task(self._stage, total=total)

    def advance(self, n: int = 1) -> None:
        """Add `n` completed steps to the stage."""
        if self._task is not None:
            self._bars.advance(self._task, n)

    def detail(self, text: str) -> None:
        """Show `text` behind the name of the stage."""
        if self._task is not None:
            self._bars.update(self._task, description=f"{self._stage}: {text}")

    def note(self, text: str) -> None:
        """Record a line to print after the last stage."""
        self._notes.append(text)
