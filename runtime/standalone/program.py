"""A set of input shapes as libedgec loads it, and streams of runs of it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from ctypes import byref, c_void_p
from dataclasses import dataclass
from weakref import finalize

from .arrays import Array, Given
from .errors import InputError
from .library import DTYPES, LayerInfo, Options, check, library


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: its name in the source model.
        shape: its sizes.
        dtype: numpy's name of its element type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name!r} {self.dtype}[{', '.join(map(str, self.shape))}]"


class Program:
    """One set of input shapes of an artifact, loaded.

    Raises:
        ArtifactError, IncompatibleDevice: see `load`.
    """

    def __init__(self, path: str, number: int) -> None:
        self._library = library()
        handle = c_void_p()
        check(self._library.edgec_load(os.fsencode(path), number, byref(handle)))
        self.handle = handle
        self.release = finalize(self, self._library.edgec_unload, handle)
        self.inputs = self._specs("input")
        self.outputs = self._specs("output")
        self.layers: int = self._library.edgec_layers(handle)
        self.snapshot_bytes: int = self._library.edgec_snapshot_bytes(handle)
        self.sets: int = self._library.edgec_sets(handle)

    def text(self, what: str) -> str:
        """The model's `name`, `version` or `target`."""
        told: bytes = getattr(self._library, f"edgec_{what}")(self.handle)
        return told.decode()

    def _specs(self, what: str) -> tuple[TensorSpec, ...]:
        count = getattr(self._library, f"edgec_{what}s")(self.handle)
        infos = [getattr(self._library, f"edgec_{what}")(self.handle, k).contents for k in range(count)]
        return tuple(
            TensorSpec(info.name.decode(), tuple(info.shape[: info.rank]), DTYPES[info.dtype])
            for info in infos
        )

    def match(self, inputs: Mapping[str, Given]) -> list[Given] | None:
        """The inputs in the order of a call; None if they do not fit."""
        if len(inputs) != len(self.inputs):
            return None
        found = [inputs.get(spec.name) for spec in self.inputs]
        pairs = zip(found, self.inputs, strict=True)
        fitting = [given for given, spec in pairs if given and given.fits(spec.shape, spec.dtype)]
        return fitting if len(fitting) == len(found) else None


class Stream:
    """Memory and state of runs of a program, for one thread at a time."""

    def __init__(self, program: Program, threads: int) -> None:
        self._library, self.program = library(), program
        options, handle = Options(threads=threads), c_void_p()
        check(self._library.edgec_open(program.handle, byref(options), byref(handle)))
        self._handle = handle
        self.release = finalize(self, self._library.edgec_close, handle)
        self._inputs = (c_void_p * max(1, len(program.inputs)))()
        self._outputs = (c_void_p * max(1, len(program.outputs)))()

    def _place(self, given: list[Given]) -> list[Array]:
        made = [Array(spec.shape, spec.dtype) for spec in self.program.outputs]
        self._inputs[: len(given)] = [one.address for one in given]
        self._outputs[: len(made)] = [array.address for array in made]
        return made

    def run(self, given: list[Given]) -> dict[str, Array]:
        """Run once on inputs that fit.

        Raises:
            EdgecError: a kernel failed.
        """
        made = self._place(given)
        check(self._library.edgec_run(self._handle, self._inputs, self._outputs))
        return {spec.name: array for spec, array in zip(self.program.outputs, made, strict=True)}

    def profile(self, given: list[Given], repeats: int) -> list[tuple[str, str, float]]:
        """Kernel, nodes and seconds of each layer, on average over some runs."""
        layers = (LayerInfo * max(1, self.program.layers))()
        made = self._place(given)
        check(
            self._library.edgec_profile(
                self._handle, self._inputs, self._outputs, repeats, layers, self.program.layers
            )
        )
        del made
        return [
            (one.kernel.decode(), one.nodes.decode(), one.seconds) for one in layers[: self.program.layers]
        ]

    def reset(self) -> None:
        """Return to the initial state."""
        check(self._library.edgec_reset(self._handle))

    def snapshot(self) -> bytes:
        """The present state."""
        content = ctypes.create_string_buffer(self.program.snapshot_bytes)
        check(self._library.edgec_snapshot(self._handle, content, len(content)))
        return content.raw

    def restore(self, content: bytes) -> None:
        """Continue from a snapshot.

        Raises:
            InputError: it is damaged, or of another model.
        """
        check(self._library.edgec_restore(self._handle, content, len(content)))


def misfit(programs: list[Program], inputs: Mapping[str, Given]) -> InputError:
    """The error that says what is wrong with inputs that fit no program."""
    first = programs[0]
    name, names = first.text("name"), [spec.name for spec in first.inputs]
    expected = ", ".join(map(str, first.inputs)) or "nothing"
    if unknown := [given for given in inputs if given not in names]:
        return InputError(f"{name} has no input {unknown[0]!r}; it takes {expected}")
    if missing := [one for one in names if one not in inputs]:
        return InputError(f"input {missing[0]!r} of {name} is missing; it takes {expected}")
    for number, spec in enumerate(first.inputs):
        given, specs = inputs[spec.name], [program.inputs[number] for program in programs]
        if not any(given.fits(one.shape, one.dtype) for one in specs):
            further = "".join(f" or {list(shape)}" for shape in dict.fromkeys(one.shape for one in specs[1:]))
            return InputError(f"input {spec}{further} was given as {given}")
    sets = "; or ".join(", ".join(map(str, program.inputs)) for program in programs)
    return InputError(f"the inputs of {name} fit no set of shapes together; it takes {sets}")
