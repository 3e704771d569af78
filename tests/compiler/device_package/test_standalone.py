"""edgec_runtime: artifacts run with Python alone, and compute what edgec.runtime computes, bit by bit."""

from __future__ import annotations

import array
import gc
import json
import os
import subprocess
import sys
import threading
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgec.runtime as rt
from edgec.compiler.device_package.standalone import build_standalone_wheel
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import UsageError, detect, load_target
from tests.compiler.c_library.harness import Built, build
from tests.compiler.c_library.models import classifier, stream
from tests.compiler.small_models import model_of, save

RNG = np.random.default_rng(0)
PICTURE = RNG.standard_normal((1, 3, 32, 32)).astype(np.float32)
FRAMES = [{"frame": RNG.standard_normal((1, 40)).astype(np.float32)} for _ in range(4)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("standalone")
    wheel = build_standalone_wheel(detect(), "gnu", folder)
    assert wheel.stat().st_size < 100_000
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def standalone(site: Path) -> Iterator[ModuleType]:
    """The package, imported into this process."""
    sys.path.insert(0, str(site))
    import edgec_runtime

    yield edgec_runtime
    sys.path.remove(str(site))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(classifier(), detect(), tmp_path_factory.mktemp("pictures")).result.artifact


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(stream(), detect(), tmp_path_factory.mktemp("frames"))


def equal(found: Any, expected: dict[str, Any]) -> bool:
    """Whether outputs have the same names, shapes, types and bits."""
    return list(found) == list(expected) and all(
        np.asarray(found[k]).dtype == v.dtype
        and found[k].shape == v.shape
        and bytes(found[k].data) == v.tobytes()
        for k, v in expected.items()
    )


def test_it_needs_nothing_but_python(site: Path, pictures: Path) -> None:
    program = (
        "import sys, array, edgec_runtime as rt\n"
        "with rt.load(sys.argv[1]) as model:\n"
        "    out = model.run({'image': array.array('f', [0.5] * 3072)})\n"
        "    names = {name.partition('.')[0] for name in sys.modules}\n"
        "    print(sorted(names & {'numpy', 'tvm_ffi', 'msgspec', 'edgec'}))\n"
        "    print(out['classes'].tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, str(pictures)], env={"PYTHONPATH": str(site)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    modules, values = map(json.loads, done.stdout.splitlines())
    assert modules == []
    with rt.load(pictures) as model:
        expected = model.run({"image": np.full((1, 3, 32, 32), 0.5, np.float32)})["classes"]
    assert values == expected.tolist()


@pytest.mark.parametrize(
    "given",
    [
        PICTURE, PICTURE.tobytes(), array.array("f", PICTURE.ravel().tolist()), memoryview(PICTURE),
        bytearray(PICTURE.tobytes()), np.asfortranarray(PICTURE), np.repeat(PICTURE, 2, axis=3)[..., ::2],
    ],
    ids=["numpy", "bytes", "array", "memoryview", "bytearray", "other order", "strides"],
)  # fmt: skip
def test_any_buffer_is_an_input(standalone: ModuleType, pictures: Path, given: object) -> None:
    with rt.load(pictures) as model:
        expected = model.run({"image": PICTURE})
    with standalone.load(pictures, threads=2) as model:
        assert [str(spec) for spec in model.inputs] == ["'image' float32[1, 3, 32, 32]"]
        assert equal(model.run({"image": given}), expected)


def test_outputs_are_inputs(standalone: ModuleType, pictures: Path) -> None:
    with standalone.load(pictures) as model:
        once = model.run({"image": PICTURE})
        again = model.run({"image": once["same"]})
    assert once["same"].address % 64 == 0
    assert bytes(again["classes"].data) == bytes(once["classes"].data)


def test_arrays_are_shared_not_copied(standalone: ModuleType, pictures: Path) -> None:
    with standalone.load(pictures) as model:
        output = model.run({"image": PICTURE})["classes"]
    gone = weakref.ref(output)
    view, kept = np.asarray(output), np.from_dlpack(output)
    assert view.ctypes.data == kept.ctypes.data == output.address
    view[0, 0] = 7
    assert output.tolist()[0][0] == 7
    del output, view
    gc.collect()
    assert gone() is not None
    assert kept[0, 0] == 7
    del kept
    gc.collect()
    assert gone() is None


class Tensor:
    """What has DLPack only, as PyTorch's tensors do."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self._values = values

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._values.__dlpack_device__()

    def __dlpack__(self) -> object:
        return self._values.__dlpack__()


def test_tensors_are_inputs(standalone: ModuleType, pictures: Path) -> None:
    with standalone.load(pictures) as model:
        expected = model.run({"image": PICTURE})
        found = model.run({"image": Tensor(PICTURE.copy())})
        assert bytes(found["classes"].data) == bytes(expected["classes"].data)
        with pytest.raises(standalone.InputError, match="Tensor is no array"):
            model.run({"image": Tensor(PICTURE[..., ::2])})


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 5), (2, 0)])
def test_arrays_as_lists(standalone: ModuleType, dtype: str, shape: tuple[int, ...]) -> None:
    values = (RNG.standard_normal(shape) * 50).astype(dtype)
    made = standalone.Array(shape, dtype)
    made.data[:] = values.tobytes()
    assert made.tolist() == values.tolist()
    assert np.array_equal(np.asarray(made), values)


def test_a_session_keeps_its_state(standalone: ModuleType, frames: Built) -> None:
    artifact = frames.result.artifact
    with rt.load(artifact) as model, standalone.load(artifact) as own:
        session, other = model.session(), own.session()
        for one in FRAMES[:2]:
            assert equal(other.run(one), session.run(one))
        content = other.snapshot()
        assert content == session.snapshot()
        expected = session.run(FRAMES[2])
        fresh = own.session()
        fresh.restore(content)
        assert equal(fresh.run(FRAMES[2]), expected)
        other.reset()
        first = {k: v for k, v in model.session().run(FRAMES[0]).items()}
        assert equal(other.run(FRAMES[0]), first)
        for _ in range(2):
            assert equal(own.run(FRAMES[0]), first)
        with pytest.raises(standalone.InputError, match="snapshot"):
            fresh.restore(content[:-1])


def test_several_sets_of_shapes(standalone: ModuleType, tmp_path: Path) -> None:
    options = CompileOptions(
        tune="none",
        verify=False,
        input_shapes={"image": (1, 3, 32, 32)},
        buckets=({"image": (2, 3, 32, 32)},),
    )
    artifact = compile_model(
        save(classifier("n"), tmp_path), detect(), options, output=tmp_path / "a.edge"
    ).artifact
    both = np.concatenate([PICTURE, PICTURE])
    with rt.load(artifact) as model, standalone.load(artifact) as own:
        session = own.session()
        for picture in (PICTURE, both, PICTURE):
            expected = model.run({"image": picture})
            assert equal(own.run({"image": picture}), expected)
            assert equal(session.run({"image": picture}), expected)
        with pytest.raises(
            standalone.InputError, match=r"3, 32, 32\] or \[2, 3, 32, 32\] was given as float32\[3,"
        ):
            own.run({"image": np.concatenate([both, PICTURE])})


def test_threads_share_a_model(standalone: ModuleType, frames: Built) -> None:
    found: list[bool] = []
    with standalone.load(frames.result.artifact, threads=1) as model:
        expected = [bytes(model.run(one)["score"].data) for one in FRAMES]

        def work() -> None:
            found.extend(
                bytes(model.run(one)["score"].data) == score
                for _ in range(50)
                for one, score in zip(FRAMES, expected, strict=True)
            )

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [True] * 800


def test_profile_names_kernels_and_nodes(standalone: ModuleType, pictures: Path) -> None:
    with rt.load(pictures) as model, standalone.load(pictures) as own:
        expected = [(one.kernel, one.nodes) for one in model.profile({"image": PICTURE}, repeats=1)]
        found = own.profile({"image": PICTURE}, repeats=2)
    assert [(one.kernel, one.nodes) for one in found] == expected
    assert sum(one.share for one in found) == pytest.approx(1)


BAD: dict[str, tuple[Any, str]] = {
    "no dict": ([1], "inputs must be a dict of arrays .*, not list"),
    "unknown": ({"picture": PICTURE}, "net has no input 'picture'; it takes 'image' float32"),
    "missing": ({}, "input 'image' of net is missing"),
    "list": (
        {"image": [1.0]},
        "input 'image' of net: list is no array: give an object with the buffer protocol",
    ),
    "shape": ({"image": PICTURE[:, :2]}, r"was given as float32\[1, 2, 32, 32\]"),
    "type": ({"image": PICTURE.astype("float64")}, r"was given as float64\[1, 3, 32, 32\]"),
    "byte order": ({"image": PICTURE.astype(">f4")}, r"was given as >f\[1, 3, 32, 32\]"),
    "short bytes": ({"image": b"123"}, r"was given as uint8\[3\]"),
}


@pytest.mark.parametrize("inputs", BAD)
def test_inputs_that_do_not_fit(standalone: ModuleType, pictures: Path, inputs: str) -> None:
    given, text = BAD[inputs]
    with standalone.load(pictures) as model, pytest.raises(standalone.InputError, match=text):
        model.run(given)


def test_what_cannot_be_loaded(standalone: ModuleType, pictures: Path, tmp_path: Path) -> None:
    altered = tmp_path / "altered.edge"
    content = bytearray(pictures.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    with pytest.raises(standalone.ArtifactError, match="altered"):
        standalone.load(altered)
    with pytest.raises(standalone.ArtifactError, match="cannot be read"):
        standalone.load(tmp_path / "none.edge")
    with pytest.raises(standalone.InputError, match="positive"):
        standalone.load(pictures, threads=0)
    with pytest.raises(standalone.InputError, match="at most 64 threads"):
        standalone.load(pictures, threads=65)
    model = standalone.load(pictures)
    model.close()
    with pytest.raises(standalone.InputError, match="has been closed"):
        model.run({"image": PICTURE})


def test_a_library_of_another_machine_is_refused(site: Path, pictures: Path, tmp_path: Path) -> None:
    code = bytearray((site / "edgec_runtime" / "libedgec.so").read_bytes())
    code[18] = 243  # RISC-V
    (tmp_path / "libedgec.so").write_bytes(code)
    for library in (tmp_path / "libedgec.so", tmp_path / "none.so", "libm.so.6"):
        done = subprocess.run(
            [sys.executable, "-c", "import edgec_runtime, sys; edgec_runtime.load(sys.argv[1])", str(pictures)],
            env={**os.environ, "PYTHONPATH": str(site), "EDGEC_LIBEDGEC": str(library)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "IncompatibleDevice: " in done.stderr.splitlines()[-1]
        assert str(library) in done.stderr.splitlines()[-1]


def test_half_precision(standalone: ModuleType, tmp_path: Path) -> None:
    half = TensorProto.FLOAT16
    model = model_of(
        [helper.make_node("Mul", ["x", "x"], ["y"])], {"x": (half, [2, 9])}, ["y"], output_type=half
    )
    artifact = build(model, detect(), tmp_path).result.artifact
    values = RNG.standard_normal((2, 9)).astype(np.float16)
    with rt.load(artifact) as one, standalone.load(artifact) as own:
        assert equal(own.run({"x": values}), one.run({"x": values}))


def test_a_gpu_has_no_such_wheel(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="h100 is a GPU"):
        build_standalone_wheel(load_target("h100"), "gnu", tmp_path)
