"""`edgec run`: run an artifact on one input, and print or draw the result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli.arguments import existing, file_to_write
from edgec.cli.console import emit_json, out, styled
from edgec.targets.errors import UsageError

if TYPE_CHECKING:
    import edgec.runtime as rt


def command(
    artifact: Annotated[Path, typer.Argument(help="An .edge file.", show_default=False)],
    source: Annotated[
        Path, typer.Argument(help="An image, a sound, or an .npz file of inputs.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Image to draw the results on, or .npz file to save the outputs to."
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="File with the state of a model that has one: continued from if it exists, written afterwards."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. [default: all cores]")] = None,
    emulate: Annotated[
        bool,
        typer.Option(
            "--emulate",
            help="Run it in an emulator of its target, such as a board for which it was compiled. "
            "`edgec targets emulator install` prepares it.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run an artifact on an image, a sound or an .npz file of inputs, and print or draw the result.

    A model with states runs in a session: it takes inputs without states, and arrays with one axis more in front are
    those of several runs, one after the other.
    """
    if output is not None:
        file_to_write(output)
    if emulate:
        from edgec.cli.emulation import run_emulated

        run_emulated(existing(artifact, "artifact"))
    import edgec.runtime as rt
    from edgec.runtime.processing import input_files

    kind = _kind_of(source, input_files)
    if output is not None and output.suffix.lower() != ".npz" and kind != "picture":
        raise UsageError(f"--output {output}: only the results of an image can be drawn; give an .npz file")
    with rt.load(existing(artifact, "artifact"), threads=threads) as model:
        session = _session(model, state)
        if kind == "arrays":
            _run_arrays(model, session, input_files.read_arrays(source), output, as_json)
            _keep(session, state)
            return
        if kind == "picture":
            frame = input_files.read_picture(source)
            results, milliseconds = _timed(session, frame, None)
            if output is not None:
                _draw(output, frame, results)
        else:
            samples, rate = input_files.read_sound(source)
            results, milliseconds = _timed(session, samples, rate)
        _keep(session, state)
        if as_json:
            found = [result.to_json() for result in results]
            emit_json({"source": str(source), "milliseconds": round(milliseconds, 3), "results": found})
            return
        for line in _lines(results):
            out.print(line, soft_wrap=True)
        out.print(f"{len(results)} results in {milliseconds:.1f} ms", style="dim")
        if output is not None:
            out.print(f"results drawn to {output}", soft_wrap=True)


def _session(model: rt.Model, state: Path | None) -> rt.Session:
    """Open a session, and continue from the file if there is one."""
    session = model.session()
    if state is None:
        return session
    if not model.config.states:
        raise UsageError(f"--state {state}: {model.config.name} has no states")
    file_to_write(state)
    if state.exists():
        session.restore(state.read_bytes())
    return session


def _keep(session: rt.Session, state: Path | None) -> None:
    if state is not None:
        _write(state, session.snapshot())


def _kind_of(source: Path, files: Any) -> str:  # noqa: ANN401 - the module `input_files`
    ending = source.suffix.lower()
    if ending in files.PICTURES:
        return "picture"
    if ending in files.SOUNDS:
        return "sound"
    if ending == ".npz":
        return "arrays"
    known = " ".join(sorted(files.PICTURES | files.SOUNDS | {".npz"}))
    raise UsageError(f"{source}: unknown file type; supported extensions are {known}")


def _timed(session: rt.Session, source: Any, rate: int | None) -> tuple[list[rt.Result], float]:  # noqa: ANN401
    begin = time.perf_counter()
    results = session.predict(source, sample_rate=rate)
    return results, (time.perf_counter() - begin) * 1e3


def _draw(output: Path, frame: Any, results: Sequence[rt.Result]) -> None:  # noqa: ANN401 - a picture
    import cv2

    import edgec.runtime as rt

    try:
        worked, content = cv2.imencode(output.suffix, rt.draw(frame, results))
    except cv2.error:
        worked = False
    if not worked:
        raise UsageError(f"--output {output}: OpenCV cannot write this image format; use .png or .jpg")
    _write(output, content.tobytes())


def _write(output: Path, content: bytes) -> None:
    partial = output.with_name(f".{output.name}.part")
    try:
        partial.write_bytes(content)
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"--output {output}: cannot be written: {error.strerror or error}") from error


def _run_arrays(
    model: rt.Model, session: rt.Session, inputs: dict[str, Any], output: Path | None, as_json: bool
) -> None:
    import io

    import numpy as np

    begin = time.perf_counter()
    outputs = _outputs(model, session, inputs)
    milliseconds = (time.perf_counter() - begin) * 1e3
    if output is not None:
        held = io.BytesIO()
        np.savez(held, **outputs)
        _write(output, held.getvalue())
    if as_json:
        values = {name: array.tolist() for name, array in outputs.items()}
        emit_json({"milliseconds": round(milliseconds, 3), "outputs": values})
        return
    for name, array in outputs.items():
        shown = np.array2string(array, threshold=12, edgeitems=3, precision=5)
        out.print(f"{name}  {array.dtype}{list(array.shape)}\n{shown}", soft_wrap=True)
    out.print(
        styled((f"{milliseconds:.2f} ms", "dim"), f"  saved to {output}" if output else ""), soft_wrap=True
    )


def _outputs(model: rt.Model, session: rt.Session, inputs: dict[str, Any]) -> dict[str, Any]:
    """The outputs of a run, or of one run after the other in the session, stacked."""
    import numpy as np

    if not model.config.states or any(state.input in inputs for state in model.config.states):
        return model.run(inputs)  # states that are given are inputs like others
    ranks = {spec.name: len(spec.shape) for spec in session.inputs}
    several = {n: len(a) for n, a in inputs.items() if a.ndim == ranks.get(n, a.ndim) + 1}
    if not several:
        return session.run(inputs)
    if len(set(several.values())) > 1 or 0 in several.values():
        told = ", ".join(f"{name!r} of {count}" for name, count in several.items())
        raise UsageError(f"the inputs are of different numbers of runs: {told}")
    found = [
        session.run({n: a[run] if n in several else a for n, a in inputs.items()})
        for run in range(next(iter(several.values())))
    ]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def _lines(results: Sequence[rt.Result]) -> list[str]:
    import edgec.runtime as rt

    lines = []
    for one in results:
        if isinstance(one, rt.Detection):
            box = one.box
            place = f"[{box.left:.0f}, {box.top:.0f}] to [{box.right:.0f}, {box.bottom:.0f}]"
            lines.append(f"{one.score:6.1%}  {one.label:<20} {place}")
        elif isinstance(one, rt.Sound):
            lines.append(f"{one.score:6.1%}  {one.label:<20} {one.start_s:.2f} s to {one.end_s:.2f} s")
        elif isinstance(one, rt.Classification):
            lines.append(f"{one.score:6.1%}  {one.label}")
        elif isinstance(one, rt.Keypoints):
            lines += [
                f"{point.score:6.1%}  {point.name:<20} [{point.x:.0f}, {point.y:.0f}]" for point in one.points
            ]
        elif isinstance(one, rt.Segmentation):
            lines += [f"{share:6.1%}  {one.labels[number]}" for number, share in one.shares.items()]
        elif isinstance(one, rt.Anomaly):
            lines.append(f"{one.score:.4g}  {'anomalous' if one.anomalous else 'normal'}")
        elif isinstance(one, rt.Embedding):
            lines.append(f"a vector of {len(one.vector)} numbers")
        elif isinstance(one, rt.Text):
            lines.append(f"{one.score:6.1%}  {one.text}")
        else:
            lines += [f"{name}  {array.dtype}{list(array.shape)}" for name, array in one.outputs.items()]
    return lines
