"""The instruction-set features that edgec knows by name: each is declared here, once.

A feature goes by the name that Linux prints in `/proc/cpuinfo`; target files, artifacts and the agent's reports use it.
LLVM's own spelling belongs in the `mattr` of a target's `[tvm]` table only. Code that asks whether
a target has a feature takes the constant from here, so that a misspelt one does not import.
"""

from __future__ import annotations

from typing import NamedTuple


class Feature(NamedTuple):
    """An instruction-set extension.

    Attributes:
        name: as in `/proc/cpuinfo`.
        llvm: the attribute by which LLVM knows it, without its `+`.
        aka: another name under which Linux lists it.
        element: the element type without which code has no use for it; None where it serves any code.
    """

    name: str
    llvm: str
    aka: str | None = None
    element: str | None = None


# Features that kernels require, or that determine which of them is fast.
ASIMD = "asimd"
SSE41 = "sse4_1"
AVX2 = "avx2"
AVX512BW = "avx512bw"
AVX512F = "avx512f"
AVX512_VNNI = "avx512_vnni"
AVX_VNNI = "avx_vnni"
AVX512_BF16 = "avx512_bf16"
AVX512_FP16 = "avx512_fp16"
ASIMD = "asimd"
ASIMDHP = "asimdhp"
DOTPROD = "dotprod"
I8MM = "i8mm"

_DECLARED = (
    # x86-64-v2
    Feature("cx16", "cx16"),
    Feature("lahf_lm", "sahf"),
    Feature("pni", "sse3"),
    Feature("popcnt", "popcnt"),
    Feature(SSE41, "sse4.1"),
    Feature("sse4_2", "sse4.2"),
    Feature("ssse3", "ssse3"),
    # x86-64-v3
    Feature("abm", "lzcnt"),
    Feature("avx", "avx"),
    Feature(AVX2, "avx2"),
    Feature("bmi1", "bmi"),
    Feature("bmi2", "bmi2"),
    Feature("f16c", "f16c"),
    Feature("fma", "fma"),
    Feature("movbe", "movbe"),
    Feature("xsave", "xsave"),
    # x86-64-v4 and later
    Feature(AVX512F, "avx512f"),
    Feature(AVX512BW, "avx512bw"),
    Feature("avx512cd", "avx512cd"),
    Feature("avx512dq", "avx512dq"),
    Feature("avx512vl", "avx512vl"),
    Feature(AVX512_VNNI, "avx512vnni"),
    Feature(AVX_VNNI, "avxvnni"),
    Feature(AVX512_BF16, "avx512bf16", element="bfloat16"),
    # LLVM moves any 16 bits with its instructions, so that code without half precision may need it, too.
    Feature(AVX512_FP16, "avx512fp16", element="float16"),
    # 64-bit ARM
    Feature(ASIMD, "neon"),
    Feature(ASIMDHP, "fullfp16"),
    Feature("asimdrdm", "rdm"),
    Feature("atomics", "lse"),
    Feature("crc32", "crc"),
    # Linux names ARM's instructions by register file; users and compilers know this one by the extension's name.
    Feature(DOTPROD, "dotprod", aka="asimddp"),
    Feature("fp", "fp-armv8"),
    Feature("fphp", "fullfp16"),
    Feature("lrcpc", "rcpc"),
    Feature("bf16", "bf16"),
    Feature(I8MM, "i8mm"),
)

FEATURES = {feature.name: feature for feature in _DECLARED}
ELEMENTS = frozenset(feature.element for feature in _DECLARED if feature.element)  # that some feature is for
_LLVM_ONLY = {feature.llvm: feature.name for feature in _DECLARED if feature.llvm not in FEATURES}


def with_synonyms(found: frozenset[str]) -> frozenset[str]:
    """`found`, as Linux lists them, with the names that features have here."""
    return found | {feature.name for feature in _DECLARED if feature.aka in found}


def misspelt(name: str) -> str | None:
    """The name of the feature that `name` is LLVM's spelling of; None for any other name."""
    return _LLVM_ONLY.get(name)


def linux_names(names: frozenset[str]) -> frozenset[str]:
    """Features as Linux lists them."""
    return frozenset(FEATURES[name].aka or name if name in FEATURES else name for name in names)
