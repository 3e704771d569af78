"""What target files say of a processor is what its makers say: extensions that it has and has not, and its caches."""

from __future__ import annotations

import pytest

from edgec.targets import Target, list_targets, load_target
from edgec.targets.features import FEATURES

# Of the extensions that kernels choose by, those of each target. Sources: Intel's Software Developer's Manual and
# optimisation manual, AMD's optimisation guides for families 19h and 1Ah, Arm's technical reference manuals of the
# cores, NVIDIA's of Jetson.
CHOOSING = {
    "avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
    "asimd", "asimdhp", "dotprod", "bf16", "i8mm",
}  # fmt: skip
AVX512 = {"avx2", "avx512f", "avx512bw", "avx512vl"}
ARMV82 = {"asimd", "asimdhp", "dotprod"}
EXTENSIONS = {
    "n100": {"avx2", "avx_vnni"},
    "zen3": {"avx2"},
    "zen4": AVX512 | {"avx512_vnni", "avx512_bf16"},
    "zen5": AVX512 | {"avx512_vnni", "avx512_bf16"},
    "sapphirerapids": AVX512 | {"avx512_vnni", "avx512_bf16", "avx512_fp16"},
    "cortex-a53": {"asimd"},
    "rpi3": {"asimd"},
    "rpi-zero2w": {"asimd"},
    "imx8mp": {"asimd"},
    "jetson-nano": {"asimd"},
    "rpi4": {"asimd"},
    "rk3399": {"asimd"},
    "jetson-xavier": {"asimd", "asimdhp"},
    "cortex-a55": ARMV82,
    "imx95": ARMV82,
    "rpi5": ARMV82,
    "rk3588": ARMV82,
    "qcs6490": ARMV82,
    "jetson-orin": ARMV82,
    "graviton2": ARMV82,
    "graviton3": ARMV82 | {"bf16", "i8mm"},
    "graviton4": ARMV82 | {"bf16", "i8mm"},
}
KIB = 1024
# First cache for data, second cache as one core sees it, in KiB.
CACHES = {
    "n100": (32, 2048),  # the second is shared by four
    "zen3": (32, 512),
    "zen4": (32, 1024),
    "zen5": (48, 1024),
    "sapphirerapids": (48, 2048),
    "cortex-a53": (32, 512),
    "rpi3": (32, 512),
    "rpi-zero2w": (32, 512),
    "imx8mp": (32, 512),
    "jetson-nano": (32, 2048),
    "rpi4": (32, 1024),
    "rk3399": (32, 1024),
    "jetson-xavier": (64, 2048),
    "cortex-a55": (32, 64),
    "imx95": (32, 64),
    "rpi5": (64, 512),
    "rk3588": (64, 512),
    "qcs6490": (64, 256),
    "jetson-orin": (64, 256),
    "graviton2": (64, 1024),
    "graviton3": (64, 1024),
    "graviton4": (64, 2048),
}


def test_every_target_of_certain_processors_is_checked() -> None:
    named = {target.name for target in list_targets() if target.processors and target.gpu is None}
    assert named == set(EXTENSIONS) == set(CACHES)
    assert set(FEATURES) >= CHOOSING


@pytest.mark.parametrize("name", sorted(EXTENSIONS))
def test_a_target_has_the_extensions_of_its_processor_and_no_other(name: str) -> None:
    assert load_target(name).features & CHOOSING == EXTENSIONS[name]


@pytest.mark.parametrize("name", sorted(CACHES))
def test_a_target_has_the_caches_of_its_processor(name: str) -> None:
    target = load_target(name)
    assert (target.l1d_bytes / KIB, target.l2_bytes / KIB) == CACHES[name]
    assert target.l3_bytes == 0 or target.l3_bytes >= target.l2_bytes


@pytest.mark.parametrize(
    "target", [t for t in list_targets() if t.gpu is None and t.arch != "any"], ids=lambda t: t.name
)
def test_llvm_may_use_each_extension_that_kernels_choose_by(target: Target) -> None:
    """Intrinsics of an extension that LLVM was not told of do not compile."""
    import tvm

    enabled = {
        str(one)
        for one in tvm.get_global_func("target.llvm_get_cpu_features")(tvm.target.Target(dict(target.tvm)))
    }
    assert {FEATURES[name].llvm for name in target.features & CHOOSING} <= enabled


@pytest.mark.parametrize("target", list_targets(), ids=lambda t: t.name)
def test_dot_products_with_a_rate_are_those_that_the_target_has(target: Target) -> None:
    """A rate of an instruction that is missing is never used; without a rate, an instruction counts as four steps."""
    needs = {
        "vpdpbusd": {"avx512_vnni", "avx_vnni"}, "vdpbf16ps": {"avx512_bf16"}, "sdot": {"dotprod"}, "smmla": {"i8mm"},
    }  # fmt: skip
    if target.gpu is None:
        assert set(target.core.dots) == {name for name, any_of in needs.items() if any_of & target.features}
