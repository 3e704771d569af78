"""A set of input shapes as libedgec loads it, and streams of runs of it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from ctypes import byref, c_int64, c_void_p
from dataclasses import dataclass
from weakref import finalize

from .arrays import Array, Given
from .errors import InputError
from .library import DTYPES, LayerInfo, Options, Sized, check, library


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: its name in the source model.
        shape: its sizes; of an input, the smallest ones; -1 for a size of an output that differs from run to run.
        dtype: numpy's name of its element type.
        bounds: the smallest and the largest value of each size; nothing if all are fixed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bounds: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        return f"{self.name!r} {self.dtype}[{', '.join(self.sizes())}]"

    def sizes(self) -> list[str]:
        """The sizes in words: `3`, or `1..8`."""
        if not self.bounds:
            return [str(size) for size in self.shape]
        return [str(low) if low == high else f"{low}..{high}" for low, high in self.bounds]

    def takes(self, given: Given) -> bool:
        """Whether an array is of this type and has such sizes."""
        if not self.bounds:
            return given.fits(self.shape, self.dtype)
        if len(given.shape) != len(self.bounds) or not given.fits(given.shape, self.dtype):
            return False
        return all(low <= size <= high for size, (low, high) in zip(given.shape, self.bounds, strict=True))


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
        self.varies = any(spec.bounds for spec in self.inputs) or any(
            -1 in spec.shape for spec in self.outputs
        )

    def text(self, what: str) -> str:
        """The model's `name`, `version` or `target`."""
        told: bytes = getattr(self._library, f"edgec_{what}")(self.handle)
        return told.decode()

    def _specs(self, what: str) -> tuple[TensorSpec, ...]:
        count = getattr(self._library, f"edgec_{what}s")(self.handle)
        infos = [getattr(self._library, f"edgec_{what}")(self.handle, k).contents for k in range(count)]
        found = []
        for number, info in enumerate(infos):
            shape, bounds = tuple(info.shape[: info.rank]), tuple[tuple[int, int], ...]()
            if what == "input":
                most = self._library.edgec_input_most(self.handle, number)[: info.rank]
                bounds = tuple(zip(shape, most, strict=True)) if shape != tuple(most) else ()
            found.append(TensorSpec(info.name.decode(), shape, DTYPES[info.dtype], bounds))
        return tuple(found)

    def match(self, inputs: Mapping[str, Given]) -> list[Given] | None:
        """The inputs in the order of a call; None if they do not fit."""
        if len(inputs) != len(self.inputs):
            return None
        found = [inputs.get(spec.name) for spec in self.inputs]
        pairs = zip(found, self.inputs, strict=True)
        fitting = [given for given, spec in pairs if given and spec.takes(given)]
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
        if self.program.varies:
            return self._run_sized(given)
        made = self._place(given)
        check(self._library.edgec_run(self._handle, self._inputs, self._outputs))
        return {spec.name: array for spec, array in zip(self.program.outputs, made, strict=True)}

    def _run_sized(self, given: list[Given]) -> dict[str, Array]:
        inputs = (Sized * max(1, len(given)))()
        for place, one, spec in zip(inputs, given, self.program.inputs, strict=False):
            shape = (c_int64 * max(1, len(one.shape)))(*one.shape) if spec.bounds else None
            place.data, place.shape = one.address, shape
        outputs = (Sized * max(1, len(self.program.outputs)))()
        check(self._library.edgec_run_sized(self._handle, inputs, outputs))
        found = {}
        for spec, output in zip(self.program.outputs, outputs, strict=False):
            array = found[spec.name] = Array(tuple(output.shape[: len(spec.shape)]), spec.dtype)
            ctypes.memmove(array.address, output.data, array.data.nbytes)
        return found

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
        if not any(one.takes(given) for one in specs):
            texts = dict.fromkeys(f"[{', '.join(one.sizes())}]" for one in specs[1:])
            further = "".join(f" or {text}" for text in texts)
            return InputError(f"input {spec}{further} was given as {given}")
    sets = "; or ".join(", ".join(map(str, program.inputs)) for program in programs)
    return InputError(f"the inputs of {name} fit no set of shapes together; it takes {sets}")
