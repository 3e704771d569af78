"""A compile's progress on the terminal: the stage, how far it is, how long it will take."""

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

STAGES = {
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
    "pack": "writing the artifact",
    "profile": "timing layers",
    "undisturbed": "waiting for moments without neighbours",
}


class TerminalProgress:
    """Shows stages on standard error while it is open, unless that is no terminal, and notes when it ends.

    With ``quiet`` it shows neither.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=quiet or not err.is_terminal,
        )
        self._quiet = quiet
        self._task: TaskID | None = None
        self._notes: list[str] = []

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()
        for text in () if self._quiet else dict.fromkeys(self._notes):
            err.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)

    def _finish(self) -> None:
        if self._task is not None:
            task = next(t for t in self._bars.tasks if t.id == self._task)
            self._bars.update(self._task, total=task.total or 1, completed=task.total or 1)

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage; the one before is finished."""
        self._finish()
        self._task = self._bars.add_task(STAGES.get(name, name), total=total)

    def advance(self, n: int = 1) -> None:
        """Count finished steps of the stage."""
        if self._task is not None:
            self._bars.advance(self._task, n)

    def note(self, text: str) -> None:
        """Keep a line to show when the stages are over."""
        self._notes.append(text)
