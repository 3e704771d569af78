"""How a direct convolution is cut into register tiles: the schedule, its loop bounds, and runs of equal tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgec.compiler.backends.cpu.dot_instructions import feature_of
from edgec.compiler.backends.cpu.specs import ConvSpec
from edgec.compiler.backends.cpu.templates.loop_nests import tiles
from edgec.compiler.operands.operands import INT8, INT8_SQUARES, Operands
from edgec.targets.target import Target


def reads_vectors(spec: ConvSpec) -> bool:
    """Whether the words of neighbouring columns are neighbours: ARM multiplies by one word of a vector of them."""
    step = spec.operands.step
    narrow = spec.operands.accumulator == "int32" and step > 1
    return narrow and spec.lanes == spec.in_block == step == 4 and spec.window.stride[1] == 1


def has_squares(operands: Operands, target: Target) -> bool:
    """Whether the target multiplies two rows of `operands` by two columns in an instruction."""
    return operands == INT8 and feature_of(INT8_SQUARES) in target.features


def multiplies_squares(spec: ConvSpec, target: Target) -> bool:
    """Whether tiles multiply pairs of columns: they have to be neighbours, and channels pairs of blocks.

    Of a single pixel a dot instruction computes as much.
    """
    w = spec.window
    pixels = w.kernel == w.stride == (1, 1) and w.pad == (0, 0) and w.out[1] > 1
    whole = spec.in_channels // spec.groups % INT8_SQUARES.depth == 0
    return has_squares(spec.operands, target) and reads_vectors(spec) and pixels and whole


@dataclass(frozen=True)
class Piece:
    """A run of tiles that share code: first column, tile width, count, per kernel column the valid columns."""

    start: int
    width: int
    count: int
    valid: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Band:
    """A run of tiles of `rows` rows that share code: first tile and row, count, per kernel row the valid rows."""

    first: int
    start: int
    rows: int
    count: int
    valid: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Schedule:
    """A candidate.

    Attributes:
        width: columns of the register tile.
        tall: rows of the register tile.
        out_blocks: channel blocks of the register tile.
        rows: pieces into which the output is cut for tasks (image rows, unless the image is flattened).
        flat: height and width are one axis (1×1 kernels without stride only).
        ic_chunk: input channels reduced before the tile moves on; 0 for all at once.
        rows_outer: tasks run over rows first, so that threads share weights rather than input.
        ahead: each step prefetches the input that the next tile will read.
        elements: a pixel's channels are loaded as one vector, whose elements multiply one after the other (NEON's
            `fmla` takes a single element of a vector), instead of an element for each channel.
        apart: nothing that a tap read is kept in registers for the next one.
    """

    width: int
    out_blocks: int
    rows: int
    flat: bool = False
    ic_chunk: int = 0
    rows_outer: bool = False
    ahead: bool = False
    tall: int = 1
    elements: bool = False
    apart: bool = False

    def __str__(self) -> str:
        parts = [f"direct {self.width}x{self.out_blocks}", f"rows{self.rows}"]
        parts += ["flat"] if self.flat else []
        parts += [f"tall{self.tall}"] if self.tall > 1 else []
        parts += [f"ic{self.ic_chunk}"] if self.ic_chunk else []
        parts += ["rows-outer"] if self.rows_outer else []
        parts += ["ahead"] if self.ahead else []
        parts += ["elements"] if self.elements else []
        parts += ["apart"] if self.apart else []
        return " ".join(parts)


@dataclass(frozen=True)
class Geometry:
    """The loop bounds of a convolution, possibly flattened, and the runs of tiles that share code."""

    spec: ConvSpec
    schedule: Schedule
    height: int
    width: int
    in_height: int
    in_width: int

    @staticmethod
    def of(spec: ConvSpec, schedule: Schedule) -> Geometry:
        """The loop bounds for a schedule."""
        out, size = spec.window.out, spec.in_size
        if not schedule.flat:
            return Geometry(spec, schedule, out[0], out[1], size[0], size[1])
        total = out[0] * out[1]
        return Geometry(spec, schedule, schedule.rows, total // schedule.rows, 1, total)

    def bands(self) -> list[Band]:
        """Runs of tiles of several rows."""
        w, found = self.spec.window, list[Band]()
        for number, (start, rows) in enumerate(tiles(self.height, self.schedule.tall)):
            valid = tuple(w.reach(0, ky, (start, rows), self.in_height) for ky in range(w.kernel[0]))
            last = found[-1] if found else None
            if last and (last.rows, last.valid) == (rows, valid):
                found[-1] = replace(last, count=last.count + 1)
            else:
                found.append(Band(number, start, rows, 1, valid))
        return found

    def pieces(self) -> list[Piece]:
        """Runs of tiles of a row."""
        found: list[Piece] = []
        for start, width in tiles(self.width, self.schedule.width):
            valid = tuple(self._valid(start, width, kx) for kx in range(self.spec.window.kernel[1]))
            last = found[-1] if found else None
            if last and (last.width, last.valid) == (width, valid):
                found[-1] = replace(last, count=last.count + 1)
            else:
                found.append(Piece(start, width, 1, valid))
        return found

    def _valid(self, start: int, width: int, kx: int) -> tuple[int, int]:
        """The columns of a tile for which tap `kx` reads inside the image."""
        if self.schedule.flat:
            return (0, width)
        return self.spec.window.reach(1, kx, (start, width), self.in_width)
