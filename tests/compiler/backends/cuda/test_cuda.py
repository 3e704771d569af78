"""Artifacts for NVIDIA GPUs, built on a machine without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import edgec.runtime as rt
from edgec.compiler.backends.cuda import nvrtc
from edgec.compiler.backends.cuda.prologue import with_own_prologue
from edgec.compiler.errors import TargetLacksPrecision, ToolMissing
from edgec.compiler.options import CompileOptions, Precision
from edgec.compiler.pipeline import compile_model
from edgec.runtime.gpu import device
from edgec.runtime.gpu.code import unpack
from edgec.runtime.gpu.driver import CudaDriver
from edgec.runtime.gpu.driver_library import DriverLibrary
from edgec.targets import load_target
from edgec.targets.loader import list_targets
from tests.benchmarks.gpu.emulated import make_driver
from tests.compiler.backends.cuda.machine_code import disassembled
from tests.compiler.onnx_models import model_of, save

COMMON = ("cuda", "jetson-nano-gpu", "jetson-orin-gpu", "h100", "rtx50")
GPUS = [
    pytest.param(target.name, marks=() if target.name in COMMON else (pytest.mark.long,))
    for target in list_targets()
    if target.device_kind == "cuda"
]
ELF, CUDA_ELF = b"\x7fELF", 190  # e_machine EM_CUDA


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Softmax", ["f"], ["y"], axis=1),
    ]
    weights = {"w": np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype("float32")}
    return save(model_of(nodes, {"x": [1, 8, 12, 12]}, ["y"], weights), tmp_path_factory.mktemp("network"))


def compiled(model: Path, target: str, folder: Path) -> rt.Artifact:
    options = CompileOptions(verify=False, cache_dir=folder / "cache")
    return rt.Artifact.open(
        compile_model(model, load_target(target), options, output=folder / "m.edge").artifact
    )


@pytest.mark.parametrize("target", GPUS)
def test_every_target_gets_machine_code_and_no_source(network: Path, tmp_path: Path, target: str) -> None:
    artifact = compiled(network, target, tmp_path)
    header, binaries = unpack(artifact.code())
    gpu = load_target(target).gpu
    assert gpu is not None
    assert {b.arch for b in header.binaries if b.kind == "cubin"} == set(gpu.architectures)
    for binary in header.binaries:
        content = bytes(binaries[binary.offset : binary.offset + binary.size])
        if binary.kind == "cubin":
            assert content[:4] == ELF
            assert int.from_bytes(content[18:20], "little") == CUDA_ELF
        else:
            assert b".target " + gpu.ptx.encode() in content
    whole = (tmp_path / "m.edge").read_bytes()
    for text in (b"__global__", b"blockIdx.", b"#include"):
        assert text not in whole


def test_each_gpu_loads_its_own_code_of_an_artifact_for_seven_architectures(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver of the tests is given texts in the place of NVRTC's cubins; its kernels do nothing."""
    header, binaries = unpack(compiled(network, "cuda", tmp_path).code())
    made = {bytes(binaries[b.offset : b.offset + b.size]): (b.kind, b.arch) for b in header.binaries}
    monkeypatch.setenv("FAKE_VERSION", "13000")
    driver = CudaDriver(DriverLibrary(str(make_driver(tmp_path))))
    monkeypatch.setattr(device, "shared_driver", lambda: driver)
    load, loaded = driver.load, set[tuple[str, str]]()

    def note(binary: bytes) -> object:
        kind, arch = made[bytes(binary)]
        loaded.add((kind, arch))
        return load(kind.encode())

    monkeypatch.setattr(driver, "load", note)
    given = np.ones((1, 8, 12, 12), "float32")
    own = {one: ("cubin", f"sm_{one}") for one in ("75", "80", "86", "87", "89", "90", "120")}
    others = {
        "121": ("cubin", "sm_120"),
        "70": None,
        "72": None,
        "103": ("ptx", "sm_75"),
        "110": ("ptx", "sm_75"),
    }
    for capability, wanted in (own | others).items():
        monkeypatch.setenv("FAKE_MAJOR", capability[:-1])
        monkeypatch.setenv("FAKE_MINOR", capability[-1])
        loaded.clear()
        if wanted is None:
            with pytest.raises(
                rt.IncompatibleDevice, match=f"has code for sm_120, .*; this GPU is sm_{capability}"
            ):
                rt.load(tmp_path / "m.edge")
            continue
        with rt.load(tmp_path / "m.edge") as model:
            assert model.run({"x": given})["y"].shape == (1, 16)
        assert loaded == {wanted}
    assert not driver.library._library.fake_live()


def test_an_artifact_has_no_code_for_the_host_and_asks_for_a_driver(network: Path, tmp_path: Path) -> None:
    artifact = compiled(network, "l4", tmp_path)
    assert artifact.config.arch == "any"
    assert artifact.config.required_features == ()
    with pytest.raises(rt.IncompatibleDevice, match="no NVIDIA driver is installed here"):
        rt.load(tmp_path / "m.edge")


def test_equal_compiles_are_equal_bytes(network: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    assert compiled(network, "t4", tmp_path / "a").code() == compiled(network, "t4", tmp_path / "b").code()


def test_a_second_compile_runs_no_compiler_of_kernels(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compiled(network, "l4", tmp_path).code()
    monkeypatch.setattr(nvrtc, "compile_source", lambda *_, **__: pytest.fail("NVRTC ran again"))
    assert compiled(network, "l4", tmp_path).code() == first
    with pytest.raises(pytest.fail.Exception, match="NVRTC ran again"):
        compiled(network, "t4", tmp_path)


def test_verification_without_a_gpu_is_refused_before_any_work(network: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ToolMissing, match=r"code for h100 cannot run here: no NVIDIA driver .*\.\n.* pass --no-verify"
    ):
        compile_model(network, load_target("h100"), CompileOptions(), output=tmp_path / "m.edge")
    assert not list(tmp_path.iterdir())


def test_without_nvrtc_the_way_out_is_told(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvrtc.library_path.cache_clear()
    nvrtc._library.cache_clear()
    nvrtc.architectures.cache_clear()
    monkeypatch.setattr(nvrtc, "find_spec", lambda _name: None)
    with pytest.raises(
        ToolMissing, match=r"needs NVRTC, which is not installed here\.\nRun pip install 'edgec\[cuda\]'"
    ):
        compiled(network, "l4", tmp_path)
    nvrtc.library_path.cache_clear()


def test_an_architecture_that_nvrtc_does_not_know_is_named() -> None:
    with pytest.raises(
        ToolMissing, match=r"NVRTC 12\.\d, which is installed here, compiles for .*, not for sm_35"
    ):
        nvrtc.check_architecture("sm_35")


def test_the_prologue_stays_where_it_is_needed() -> None:
    begin, end = (
        "#ifdef __CUDACC_RTC__\n",
        "#else\n  #include <cstdint>\n  #include <type_traits>\n  #include <cuda.h>\n#endif\n",
    )
    assert "cstdint" not in with_own_prologue(begin + end + "int32_t x;")
    assert with_own_prologue(begin + end + "std::is_same<int, int>") == begin + end + "std::is_same<int, int>"


@pytest.mark.parametrize(
    ("target", "precision"), [("l4", "fp16"), ("jetson-orin-gpu", "bf16"), ("t4", "fp16")]
)
def test_rounded_products_run_on_tensor_cores(
    network: Path, tmp_path: Path, target: str, precision: Precision
) -> None:
    options = CompileOptions(verify=False, precision=precision, cache_dir=tmp_path / "cache")
    result = compile_model(network, load_target(target), options, output=tmp_path / "m.edge")
    header, binaries = unpack(rt.Artifact.open(result.artifact).code())
    texts = [bytes(binaries[b.offset : b.offset + b.size]) for b in header.binaries if b.kind == "ptx"]
    kind = {"fp16": "f16", "bf16": "bf16"}[precision]
    step = f"f32.{kind}.{kind}.f32".encode()
    assert any(b"mma.sync.aligned.m16n8k" in text and step in text for text in texts)


def late_layers(folder: Path, kind: str) -> Path:
    """A deep convolution of a small image, as networks end, and a pointwise one; in fp32, or quantised."""
    draw, nodes, constants = np.random.default_rng(3), [], {}
    scales = {"s": np.float32(0.05), "z": np.int8(0), "o": np.float32(1)}

    def rounded(name: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}q", "s", "z"], [f"{name}d"]))
        return f"{name}d"

    last = "x"
    for number, (filters, side) in enumerate(((256, 3), (128, 1))):
        weights = draw.standard_normal((filters, 256, side, side)) * (256 * side**2) ** -0.5
        name = f"w{number}"
        constants[name] = weights.astype("float32")
        if kind == "int8":
            last = rounded(last)
            constants[name] = np.clip(weights * 500, -127, 127).astype("int8")
            nodes.append(helper.make_node("DequantizeLinear", [name, "o", "z"], [f"{name}d"]))
            name = f"{name}d"
        nodes.append(helper.make_node("Conv", [last, name], [f"c{number}"], pads=[side // 2] * 4))
        last = f"c{number}"
    if kind == "int8":
        constants |= scales
        last = rounded(last)
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    return save(model_of(nodes, {"x": [1, 256, 7, 7]}, ["y"], constants), folder)


LATE = [
    ("t4", "fp16", "HMMA.1688.F32", False),
    ("h100", "fp16", "HMMA.16816.F32", True),
    ("l4", "int8", "IMMA.168", True),
    *(
        pytest.param(*case, marks=pytest.mark.long)
        for case in (
            ("t4", "int8", "IMMA.8816", False),
            ("a100", "fp16", "HMMA.16816.F32", True),
            ("a100", "int8", "IMMA.168", True),
            ("jetson-orin-gpu", "bf16", "HMMA.16816.F32.BF16", True),
            ("rtx50", "fp16", "HMMA.16816.F32", True),
            ("jetson-thor-gpu", "fp16", "HMMA.16816.F32", True),
        )
    ),
]


@pytest.mark.parametrize(("target", "kind", "instruction", "asynchronous"), LATE)
def test_late_layers_use_the_hardware(
    target: str, kind: str, instruction: str, asynchronous: bool, tmp_path: Path
) -> None:
    """Of an artifact: tensor cores in both convolutions, asynchronous copies from Ampere on and none before, and at
    batch 1 the deep one's sum is shared by several blocks.
    """
    precision: Precision = "fp32" if kind == "int8" else kind  # type: ignore[assignment]
    options = CompileOptions(verify=False, tune="none", precision=precision, cache_dir=tmp_path / "cache")
    made = compile_model(
        late_layers(tmp_path, kind), load_target(target), options, output=tmp_path / "m.edge"
    )
    assert sum(" split " in f"{kernel.schedule} " for kernel in made.config.kernels.values()) == 1
    code = disassembled(made.artifact, tmp_path)
    using = [one for one in code if instruction in one]
    assert len(using) == 2
    assert ["LDGSTS" in one for one in using] == [asynchronous] * 2


def test_a_precision_without_tensor_cores_is_refused(network: Path, tmp_path: Path) -> None:
    for target, precision in (("t4", "bf16"), ("t4", "tf32"), ("jetson-nano-gpu", "fp16")):
        options = CompileOptions(verify=False, precision=precision)  # type: ignore[arg-type]
        with pytest.raises(
            TargetLacksPrecision, match=f"{target} has tensor cores for .*, not for {precision}"
        ):
            compile_model(network, load_target(target), options, output=tmp_path / "m.edge")
