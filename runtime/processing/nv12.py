"""Frames as hardware decoders and many cameras give them: NV12, the luma of each pixel and the chroma of each four."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.runtime.errors import InputError

# To BGR by ITU-R BT.601 in units of 2^-20, as OpenCV's `cvtColorTwoPlane` has them.
BITS = 20
LUMA, BLUE_U, GREEN_U, GREEN_V, RED_V = 1220542, 2116026, -409993, -852492, 1673527


class Nv12:
    """A frame in NV12, of numpy or on a GPU (DLPack or `__cuda_array_interface__`); `predict` takes it as one in BGR.

    Args:
        luma: uint8 `[height, row]`.
        chroma: uint8 `[height / 2, row]`, u and v in turns, where luma lies.
        width: of the picture, in pixels; None for whole rows. Decoders pad rows to a multiple of 64 or 256 bytes.

    Raises:
        InputError: the planes do not belong together.
    """

    __slots__ = ("chroma", "height", "luma", "width")

    def __init__(self, luma: Any, chroma: Any, width: int | None = None) -> None:  # noqa: ANN401 - of any library
        shapes = [tuple(int(size) for size in getattr(plane, "shape", ())) for plane in (luma, chroma)]
        kinds = [str(getattr(plane, "dtype", None)).removeprefix("torch.") for plane in (luma, chroma)]
        if kinds != ["uint8", "uint8"] or [len(shape) for shape in shapes] != [2, 2]:
            raise InputError(
                "a frame in NV12 has uint8 planes [height, row] and [height / 2, row], not "
                f"{kinds[0]}{list(shapes[0])} and {kinds[1]}{list(shapes[1])}"
            )
        self.height = shapes[0][0]
        self.width = shapes[0][1] if width is None else int(width)
        rows = min(shapes[0][1], shapes[1][1])
        if (
            self.height % 2
            or self.width % 2
            or shapes[1][0] != self.height // 2
            or not 0 < self.width <= rows
        ):
            raise InputError(
                f"a frame in NV12 of {self.width}x{self.height} has even sides and planes [{self.height}, row] and "
                f"[{self.height // 2}, row] of at least {self.width} bytes a row, not {list(shapes[0])} and "
                f"{list(shapes[1])}"
            )
        self.luma, self.chroma = luma, chroma

    @classmethod
    def of_buffer(cls, buffer: Any, width: int | None = None) -> Nv12:  # noqa: ANN401
        """A frame whose planes follow one another, uint8 `[height * 3 / 2, row]`.

        Raises:
            InputError: it has no such shape.
        """
        rows = int(getattr(buffer, "shape", (0,))[0])
        if rows % 3:
            raise InputError(f"a buffer in NV12 has a multiple of three rows, not {rows}")
        height = rows // 3 * 2
        return cls(buffer[:height], buffer[height:], width)

    def bgr(self) -> npt.NDArray[np.uint8]:
        """The frame in BGR, `[height, width, 3]`, of planes of numpy."""
        import cv2

        luma = np.ascontiguousarray(self.luma[:, : self.width])
        pairs = np.ascontiguousarray(self.chroma[:, : self.width])
        chroma = pairs.reshape(self.height // 2, self.width // 2, 2)
        return np.asarray(cv2.cvtColorTwoPlane(luma, chroma, cv2.COLOR_YUV2BGR_NV12), np.uint8)
