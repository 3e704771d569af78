"""Calibration data: pictures, sounds or arrays, through the model card's own preprocessing.

A data set is a list of places: an example is read when it is needed, and kept for the next time while a fixed amount of
memory lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import edgec.runtime as rt
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.quantise import records
from edgec.compiler.quantise.contents import NEEDED, Kind, files_of, needed
from edgec.compiler.quantise.errors import CalibrationError
from edgec.compiler.quantise.labels import Truth, by_folder, read_labels
from edgec.compiler.verify.inputs import Arrays
from edgec.runtime.errors import InputError
from edgec.runtime.processing.input_files import read_picture, read_sound

LEAST = 16  # examples below which ranges and errors are guesses
MOST_KEPT = 512 << 20  # bytes of examples in memory
ENOUGH = 100  # what is recommended
ALL_FLAT: Mapping[Kind, str] = {
    "pictures": "every picture is of a single colour",
    "sounds": "every sound is a single constant value",
    "arrays": "every example is a single constant value",
}
LABELS = "labels"  # the array of an `.npz` file that holds class numbers or names


@dataclass(frozen=True)
class Example:
    """One picture, sound or set of arrays.

    Attributes:
        name: for messages.
        inputs: the model's inputs; a sound has one set for each of its windows.
        places: of a picture in the input, or None.
        truth: what the model should find; None without labels.
        flat: whether it is a picture of one colour, or a sound of one value, whatever is added around it.
    """

    name: str
    inputs: tuple[Arrays, ...]
    place: Any = None
    truth: Truth | None = None
    flat: bool = False


@dataclass
class Kept:
    """Examples that were read, within `MOST_KEPT`."""

    examples: dict[int, Example] = field(default_factory=dict)
    bytes: int = 0

    def add(self, number: int, example: Example) -> Example:
        """Keep an example if there is room."""
        size = sum(int(array.nbytes) for inputs in example.inputs for array in inputs.values())
        if self.bytes + size <= MOST_KEPT:
            self.examples[number] = example
            self.bytes += size
        return example


@dataclass(frozen=True)
class Dataset:
    """Examples of a folder or file, read one at a time.

    Attributes:
        path: the folder or file.
        kind: of its content.
        source: the model that takes them.
        card: describes the preprocessing.
        files: of a folder, in a fixed order.
        numbers: which examples belong to this set, ascending.
        truths: by file name relative to the folder, or by number.
        kept: examples in memory, shared by the parts of a data set.
    """

    path: Path
    kind: Kind
    source: SourceModel
    card: rt.ModelCard | None
    files: tuple[Path, ...]
    numbers: tuple[int, ...]
    truths: Mapping[str, Truth] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept, repr=False)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Example]:
        if all(number in self.kept.examples for number in self.numbers):
            return iter([self.kept.examples[number] for number in self.numbers])
        return self._of_files() if self.files else self._of_arrays()

    def first(self, count: int) -> Dataset:
        """At most `count` examples, spread over the set."""
        if count >= len(self.numbers):
            return self
        chosen = np.linspace(0, len(self.numbers) - 1, count).round().astype(int)
        return replace(self, numbers=tuple(self.numbers[i] for i in dict.fromkeys(chosen.tolist())))

    def divided(self, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Two halves without a common example: one to calibrate with, one to judge by."""
        mixed = np.random.default_rng(seed).permutation(self.numbers).tolist()
        half = (len(mixed) + 1) // 2
        return replace(self, numbers=tuple(sorted(mixed[:half]))), replace(
            self, numbers=tuple(sorted(mixed[half:]))
        )

    def _of_files(self) -> Iterator[Example]:
        prepare = _Preparation(self.source, self.card)
        for number in self.numbers:
            if number in self.kept.examples:
                yield self.kept.examples[number]
                continue
            file = self.files[number]
            name = file.relative_to(self.path).as_posix()
            example = prepare(file, self.kind)
            yield self.kept.add(number, replace(example, name=name, truth=self.truths.get(name)))

    def _of_arrays(self) -> Iterator[Example]:
        wanted = set(self.numbers)
        names = [port.name for port in self.source.inputs]
        for number, row in enumerate(records.rows(self.path, names)):
            if number in wanted:
                arrays = {
                    port.name: np.ascontiguousarray(row[port.name].reshape(port.shape), port.dtype)
                    for port in self.source.inputs
                }
                told = f"example {number} of {self.path.name}"
                example = Example(told, (_finite(arrays, told),), truth=self.truths.get(str(number)))
                yield self.kept.add(number, example)


def open_dataset(
    path: Path, source: SourceModel, card: rt.ModelCard | None, labels: Path | None = None
) -> Dataset:
    """Find the examples of a folder or an `.npz` file.

    Args:
        path: a folder of pictures, sounds or `.npz` files, or one `.npz` file whose arrays have one axis more in front.
        source: the model.
        card: its card; pictures and sounds need one.
        labels: a `.csv` file of labels, see `edgec.compiler.quantise.labels`. Without, labels are the names of the
            folder's own folders, if all of them are labels of the card.

    Raises:
        CalibrationError: there are too few examples, or they do not fit the model.
    """
    if path.is_dir():
        found = _folder(path, source, card, labels)
    elif path.suffix.lower() == ".npz":
        found = _arrays(path, source, card)
        if labels is not None:
            found = replace(found, truths=read_labels(labels, card, [str(n) for n in found.numbers]))
    else:
        raise CalibrationError(f"{path}: not a folder and not an .npz file.\nCalibration needs {NEEDED}")
    if len(found) < LEAST:
        raise CalibrationError(
            f"{path}: {len(found)} example{'s are' if len(found) != 1 else ' is'} too few to calibrate with; at least "
            f"{LEAST} are needed.\n"
            f"Good are {needed(found.kind)}"
        )
    _check_classes(found, card)
    return found


def _check_classes(found: Dataset, card: rt.ModelCard | None) -> None:
    """Check that the numbers of classes are those of the card's labels."""
    if card is None or not card.labels:
        return
    for name, truth in found.truths.items():
        for number in truth.classes:
            if not 0 <= number < len(card.labels):
                raise CalibrationError(
                    f"{found.path}: the class of example {name} is {number}, and the model card has {len(card.labels)} "
                    f"labels: give numbers from 0 to {len(card.labels) - 1}, or the labels themselves"
                )


def _folder(path: Path, source: SourceModel, card: rt.ModelCard | None, labels: Path | None) -> Dataset:
    kind, files = files_of(path, card)
    names = [file.relative_to(path).as_posix() for file in files]
    truths = read_labels(labels, card, names) if labels else by_folder(names, card)
    return Dataset(path, kind, source, card, files, tuple(range(len(files))), truths)


def _arrays(path: Path, source: SourceModel, card: rt.ModelCard | None) -> Dataset:
    held, counts = records.members(path), dict[str, int]()
    for port in source.inputs:
        if port.name not in held:
            raise CalibrationError(
                f"{path}: has no array {port.name!r}; the model takes {_told(source)}, and has {', '.join(held)}"
            )
        shape = held[port.name][0]
        rest = port.shape[1:] if port.shape[:1] == (1,) else None
        if shape[1:] not in (port.shape, rest) or not shape:
            raise CalibrationError(
                f"{path}: {port.name!r} is {list(shape)}; examples of the model's input {list(port.shape)} have one "
                f"axis more in front, such as {[500, *port.shape]}"
            )
        counts[port.name] = shape[0]
    if len(set(counts.values())) > 1:
        raise CalibrationError(f"{path}: the arrays hold different numbers of examples: {counts}")
    count = next(iter(counts.values()))
    truths: dict[str, Truth] = {}
    if LABELS in held and LABELS not in counts:
        with np.load(path, allow_pickle=False) as file:
            truths = {
                str(n): Truth.of_class(_class(v, card)) for n, v in enumerate(file[LABELS][:count].tolist())
            }
    return Dataset(path, "arrays", source, card, (), tuple(range(count)), truths)


def _class(value: object, card: rt.ModelCard | None) -> int:
    if isinstance(value, str) and card is not None and value in card.labels:
        return card.labels.index(value)
    if isinstance(value, int):
        return value
    raise CalibrationError(f"the label {value!r} is neither a class number nor a label of the model card")


class _Preparation:
    """From a file to the model's inputs."""

    def __init__(self, source: SourceModel, card: rt.ModelCard | None) -> None:
        from edgec.runtime.processing.audio import AudioPreprocessor
        from edgec.runtime.processing.image import ImagePreprocessor

        self.source, self.card = source, card
        spec = card.input if card else None
        port = source.inputs[0]
        if spec is not None and not isinstance(spec, rt.card.TensorInput) and len(source.inputs) != 1:
            raise CalibrationError(
                f"the model takes {_told(source)}, and the card describes one input: give an .npz file of inputs"
            )
        self.picture = ImagePreprocessor(spec, port.dtype) if isinstance(spec, rt.card.ImageInput) else None
        self.sound = (
            AudioPreprocessor(spec, port.shape, port.dtype) if isinstance(spec, rt.card.AudioInput) else None
        )

    def __call__(self, file: Path, kind: Kind) -> Example:
        """Read and prepare a file.

        Raises:
            CalibrationError: it cannot be read, or does not fit.
        """
        from edgec.runtime.processing.audio import samples_of

        name = self.source.inputs[0].name
        try:
            if self.picture is not None and kind == "pictures":
                picture = read_picture(file)
                given, place = self.picture(picture)
                if given.shape != self.source.inputs[0].shape:
                    raise InputError(
                        f"the card makes {list(given.shape)} of it, and the model takes {_told(self.source)}"
                    )
                flat = bool((picture == picture[:1, :1]).all())
                return Example(file.name, (_finite({name: given}, str(file)),), place, flat=flat)
            if self.sound is not None and kind == "sounds":
                samples = samples_of(*read_sound(file), self.sound.card)
                windows = [array for _, _, array in self.sound.windows(samples)]
                flat = bool((samples == samples[:1]).all())
                return Example(file.name, tuple(_finite({name: w}, str(file)) for w in windows), flat=flat)
            from edgec.compiler.verify.inputs import read_inputs

            return Example(file.name, (_finite(dict(read_inputs(file, self.source)), str(file)),))
        except InputError as error:
            told = str(error)
            named = told if told.startswith(str(file)) else f"{file}: {told}"
            raise CalibrationError(f"{named}\nMend the file, or take it out of {file.parent}") from error


def _finite(arrays: Arrays, name: str) -> Arrays:
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CalibrationError(
                f"{name}: the input {key!r} holds values that are NaN or infinite.\n"
                "Remove the example, or mend it: a range cannot be found from it"
            )
    return arrays


def check_varied(data: Dataset) -> None:
    """Check that examples differ and hold more than one value.

    Raises:
        CalibrationError: they say nothing about ranges.
    """
    examples = list(data)
    arrays = [_telling(inputs) for example in examples for inputs in example.inputs]
    large = [a for one in arrays for a in one.values() if a.size > 1]
    told = ""
    if (large and all(np.all(a == a.flat[0]) for a in large)) or all(example.flat for example in examples):
        told = ALL_FLAT[data.kind]
    elif len(arrays) > 1 and all(
        np.array_equal(a, arrays[0][key]) for one in arrays for key, a in one.items()
    ):
        told = f"all {data.kind if data.files else 'examples'} are the same"
    if told:
        raise CalibrationError(
            f"{data.path}: {told}, which says nothing about the model's ranges.\nCalibration needs {needed(data.kind)}"
        )


def _telling(inputs: Arrays) -> Arrays:
    """The inputs that ranges come from: real numbers, or all where there are none."""
    return {name: a for name, a in inputs.items() if a.dtype.kind == "f"} or inputs


def _told(source: SourceModel) -> str:
    return ", ".join(f"{port.name!r} {list(port.shape)}" for port in source.inputs)
