"""Instruction-set features of 64-bit ARM from the kernel's auxiliary vector.

The C library itself uses it; it is right where `/proc/cpuinfo` is not (a container, qemu's user
mode), and it lists only what every core has. Bits: Linux `arch/arm64/include/uapi/asm/hwcap.h`.
"""

from __future__ import annotations

import ctypes

_AT_HWCAP, _AT_HWCAP2 = 16, 26
_BITS = {
    "fp": 0, "asimd": 1, "aes": 3, "pmull": 4, "sha1": 5, "sha2": 6, "crc32": 7, "atomics": 8, "fphp": 9,
    "asimdhp": 10, "asimdrdm": 12, "jscvt": 13, "fcma": 14, "lrcpc": 15, "dcpop": 16, "sha3": 17,
    "asimddp": 20, "sha512": 21, "sve": 22, "asimdfhm": 23, "ilrcpc": 26, "flagm": 27,
}  # fmt: skip
_BITS2 = {"sve2": 1, "svei8mm": 9, "svebf16": 12, "i8mm": 13, "bf16": 14, "sme": 23}


def arm64_features() -> frozenset[str]:
    """The features of this 64-bit ARM processor, by their names in `/proc/cpuinfo`."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return decode_hwcap(getauxval(_AT_HWCAP), getauxval(_AT_HWCAP2))


def decode_hwcap(hwcap: int, hwcap2: int) -> frozenset[str]:
    """Names of the bits that are set in `AT_HWCAP` and `AT_HWCAP2`."""
    first = {name for name, bit in _BITS.items() if hwcap >> bit & 1}
    return frozenset(first | {name for name, bit in _BITS2.items() if hwcap2 >> bit & 1})
