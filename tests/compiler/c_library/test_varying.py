"""libedgec runs models with branches, loops and sizes known only at run time, as Python does, bit by bit."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import edgec.runtime as rt
from edgec.compiler.c_library.libedgec import build_libedgec
from edgec.compiler.c_library.toolchain import Libc
from edgec.compiler.emulation.emulator import find_emulator, lacking
from edgec.compiler.options import Bounds, CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.runtime import standalone
from edgec.runtime.card.model_card import StatePair
from edgec.runtime.standalone.library import ELSEWHERE, library
from edgec.targets import detect, load_target
from tests.compiler.c_library.harness import zig_cc
from tests.compiler.c_library.models import classifier, repeating
from tests.compiler.small_models import model_of, save

RNG = np.random.default_rng(0)
DRIVER = Path(__file__).parent / "artifact_driver.c"
value = helper.make_tensor_value_info


@pytest.fixture(scope="module")
def libedgec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libedgec")
    assert build_libedgec(folder, detect()).files["libedgec.so"] < 200_000
    return folder


@pytest.fixture(autouse=True)
def of_these_sources(libedgec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.cache_clear()
    monkeypatch.setenv(ELSEWHERE, str(libedgec / "libedgec.so"))


def places() -> ModelProto:
    """Where a matrix is not zero: as many rows as there are such places."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["at"]),
        helper.make_node("Transpose", ["at"], ["rows"], perm=[1, 0]),
    ]
    return model_of(nodes, {"x": [4, 6]}, ["rows"], output_type=TensorProto.INT64)


def branch() -> ModelProto:
    """One of two layers, or the sum of the input's positive columns, as an input says."""
    rng = np.random.default_rng(3)
    graphs = []
    for number in range(2):
        nodes = [
            helper.make_node("MatMul", ["x", f"w{number}"], [f"a{number}"]),
            helper.make_node("Tanh", [f"a{number}"], [f"b{number}"]),
            helper.make_node("MatMul", [f"b{number}", f"u{number}"], [f"c{number}"]),
            helper.make_node("Softmax", [f"c{number}"], [f"y{number}"]),
        ]
        graphs.append(
            helper.make_graph(nodes, f"g{number}", [], [value(f"y{number}", TensorProto.FLOAT, [3, 8])])
        )
    node = helper.make_node(
        "If", ["which"], ["y"], then_branch=graphs[0], else_branch=graphs[1], name="choose"
    )
    constants = {
        f"{name}{k}": rng.standard_normal((8, 8)).astype(np.float32) for name in "wu" for k in range(2)
    }
    return model_of([node], {"which": (TensorProto.BOOL, []), "x": [3, 8]}, ["y"], constants)


def stateful() -> ModelProto:
    """A state that a loop changes as often as an input says."""
    model = repeating()
    model.graph.input[0].name = "state"
    model.graph.node[0].input[2] = "state"
    model.graph.node[0].output[0] = "changed"
    model.graph.node.append(helper.make_node("Reshape", ["changed", "four"], ["stateN"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([4], np.int64), "four"))
    model.graph.output[0].CopyFrom(value("stateN", TensorProto.FLOAT, [4]))
    model.graph.node.append(helper.make_node("ReduceSum", ["stateN"], ["sum"], keepdims=0))
    model.graph.output.append(value("sum", TensorProto.FLOAT, []))
    return model


def collecting() -> ModelProto:
    """A loop that collects a row in each step."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Mul", ["s", "s"], ["t"]),
         helper.make_node("Identity", ["t"], ["row"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("s", TensorProto.FLOAT, [4])],
        [value("on", TensorProto.BOOL, []), value("t", TensorProto.FLOAT, [4]), value("row", TensorProto.FLOAT, [4])],
    )  # fmt: skip
    node = helper.make_node("Loop", ["times", "", "x"], ["y", "rows"], body=body, name="again")
    return model_of([node], {"x": [4], "times": (TensorProto.INT64, [])}, ["rows"])


def numbers(*counts: int, **inputs: Any) -> list[dict[str, Any]]:
    return [{**inputs, "times": np.array(count, np.int64)} for count in counts]


def matrices() -> list[dict[str, Any]]:
    some = (RNG.random((4, 6)) > 0.5).astype(np.float32)
    return [{"x": some}, {"x": 0 * some}, {"x": 1 + some}]


def pictures(*counts: int) -> list[dict[str, Any]]:
    return [{"image": RNG.standard_normal((count, 3, 32, 32)).astype(np.float32)} for count in counts]


ROW = RNG.standard_normal((3, 8)).astype(np.float32)
CASES: dict[str, tuple[Callable[[], ModelProto], list[dict[str, Any]], dict[str, Any]]] = {
    "loop": (repeating, numbers(0, 1, 5, 100, x=np.ones(4, np.float32)), {}),
    "branch": (branch, [{"which": np.array(which), "x": ROW} for which in (True, False)], {}),
    "size of a result": (places, matrices(), {}),
    "sizes within bounds": (
        lambda: classifier("n"),
        pictures(1, 3, 2, 4),
        {"input_shapes": {"image": (Bounds(1, 4), 3, 32, 32)}},
    ),
    "state": (stateful, numbers(1, 0, 3), {"states": (StatePair(input="state", output="stateN", initial=1.5),)}),
}  # fmt: skip


def compiled(case: str, folder: Path) -> Path:
    make, _, options = CASES[case]
    made = CompileOptions(tune="none", verify=False, **options)
    return compile_model(save(make(), folder), detect(), made, output=folder / "a.edge").artifact


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_python(case: str, tmp_path: Path) -> None:
    artifact = compiled(case, tmp_path)
    with rt.load(artifact, threads=2) as model, standalone.load(artifact, threads=2) as own:
        session, other = model.session(), own.session()
        for inputs in CASES[case][1]:
            expected, found = session.run(inputs), other.run(inputs)
            assert list(found) == list(expected)
            for name, array in expected.items():
                assert found[name].shape == array.shape
                assert bytes(found[name].data) == array.tobytes()
        assert not model.config.states or other.snapshot() == session.snapshot()


def test_sizes_out_of_bounds_are_refused(tmp_path: Path) -> None:
    with standalone.load(compiled("sizes within bounds", tmp_path)) as model:
        assert str(model.inputs[0]) == "'image' float32[1..4, 3, 32, 32]"
        with pytest.raises(
            standalone.InputError, match=r"\[1\.\.4, 3, 32, 32\] was given as float32\[5, 3, 32, 32\]"
        ):
            model.run(pictures(5)[0])
        with pytest.raises(standalone.InputError, match=r"was given as float32\[3072\]"):
            model.run({"image": np.zeros(3072, np.float32)})


def test_profile_adds_up_what_a_kernel_takes(tmp_path: Path) -> None:
    with standalone.load(compiled("loop", tmp_path)) as model:
        layers = model.profile(numbers(50, x=np.ones(4, np.float32))[0], repeats=3)
    assert any("again" in layer.nodes for layer in layers)
    assert all(layer.ms > 0 for layer in layers)


def test_sequences_of_unknown_length_are_refused(tmp_path: Path) -> None:
    options = CompileOptions(tune="none", verify=False)
    artifact = compile_model(
        save(collecting(), tmp_path), detect(), options, output=tmp_path / "a.edge"
    ).artifact
    with pytest.raises(
        standalone.IncompatibleDevice, match="sequences of tensors whose length is known only"
    ):
        standalone.load(artifact)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.parametrize("case", ["loop", "size of a result"])
def test_valgrind_finds_nothing(case: str, libedgec: Path, tmp_path: Path) -> None:
    make, inputs, _ = CASES[case]
    inputs = inputs[:3]
    options = CompileOptions(tune="none", verify=False)
    artifact = compile_model(
        save(make(), tmp_path), load_target("x86-64-v3"), options, output=tmp_path / "a.edge"
    ).artifact
    program = tmp_path / "driver"
    zig_cc(
        f"{detect().arch}-linux-gnu", str(DRIVER), f"-I{libedgec}", str(libedgec / "libedgec.so"),
        f"-Wl,-rpath,{libedgec}", "-o", str(program),
    )  # fmt: skip
    with rt.load(artifact, threads=1) as model:
        names = [spec.name for spec in model.inputs]
        expected = b"".join(array.tobytes() for one in inputs for array in model.run(one).values())
    given = b"".join(np.asarray(one[name]).tobytes() for one in inputs for name in names)
    (tmp_path / "in.bin").write_bytes(given)
    done = subprocess.run(
        ["valgrind", "-q", "--leak-check=full", "--error-exitcode=9", str(program), str(artifact), "0", "1",
         str(tmp_path / "in.bin"), str(tmp_path / "out.bin"), str(len(inputs))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.bin").read_bytes() == expected


def test_outputs_that_the_file_does_not_describe(tmp_path: Path) -> None:
    """The label of a forest, say, of which no inference knows the shape."""
    from onnx import ValueInfoProto

    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [2, 5]}, ["y"])
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    model.graph.output[0].CopyFrom(ValueInfoProto(name="y", type=tensor))
    options = CompileOptions(tune="none", verify=False)
    result = compile_model(save(model, tmp_path), detect(), options, output=tmp_path / "a.edge")
    assert [spec.shape for spec in result.config.outputs] == [(2, 5)]


@pytest.mark.long
@pytest.mark.emulator
@pytest.mark.parametrize("libc", ["gnu", "musl"])
def test_arm_with_either_c_library(tmp_path: Path, libc: Libc) -> None:
    """Outputs of integer and exact arithmetic, so that they are this machine's bits."""
    target = load_target("rpi4")
    emulator = find_emulator(target)
    if emulator is None or emulator.root is None:
        pytest.skip(lacking(target) or "this machine needs no emulator")
    build_libedgec(tmp_path / "lib", target, libc)
    program = tmp_path / "driver"
    zig_cc(
        f"aarch64-linux-{libc}" + (f".{target.min_glibc}" if libc == "gnu" else ""),
        *([] if libc == "gnu" else ["-static"]),
        str(DRIVER), f"-I{tmp_path}/lib", str(tmp_path / "lib" / "libedgec.a"), "-lm", "-lpthread", "-o", str(program),
    )  # fmt: skip
    options = CompileOptions(tune="none", verify=False)
    for case in ("loop", "size of a result"):
        make, inputs, _ = CASES[case]
        path = save(make(), tmp_path)
        artifact = compile_model(path, target, options, output=tmp_path / "arm.edge").artifact
        here = compile_model(path, detect(), options, output=tmp_path / "here.edge").artifact
        with rt.load(here, threads=1) as model:
            names = [spec.name for spec in model.inputs]
            expected = b"".join(array.tobytes() for one in inputs for array in model.run(one).values())
        (tmp_path / "in").write_bytes(
            b"".join(np.asarray(one[name]).tobytes() for one in inputs for name in names)
        )
        command = [
            str(emulator.qemu),
            "-cpu",
            emulator.cpu,
            "-L",
            str(emulator.root),
            str(program),
            str(artifact),
        ]
        subprocess.run(
            [*command, "0", "2", str(tmp_path / "in"), str(tmp_path / "out"), str(len(inputs))], check=True
        )
        assert (tmp_path / "out").read_bytes() == expected
