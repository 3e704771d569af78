"""The size of a JPEG, from its markers (ITU-T T.81, annex B): nothing is decoded."""

from __future__ import annotations

_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        ValueError: this is no JPEG, or it ends before its frame header.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("it does not start like a JPEG")
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ValueError(f"byte {at} is no marker")
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAMES:
            if at + 9 > len(data):
                break
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            return width, height
        if length < 2 or marker == 0xDA:
            break
        at += 2 + length
    raise ValueError("it ends before its frame header")
