"""How a process starts: what loading imports, and that it lives beside the packages whose libraries it uses."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.execution import shared_libraries
from edgec.runtime.execution.compiled_functions import load_code
from edgec.runtime.execution.ffi_abi import Call, Interface

# PyTorch, where it is installed, would be imported by tvm_ffi: seconds that these tests are not about.
PROBE = """
import sys
sys.modules["torch"] = None
import numpy as np

def load():
    import edgec.runtime as rt
    return rt.load(sys.argv[1], threads=1)

def check(model):
    x = np.full((1, 32), 0.25, "float32")
    found = model.run({"x": x})["y.0"]
    assert found.shape == (1, 32) and (found == model.run({"x": x})["y.0"]).all()
    assert model.profile({"x": x}, 2)

def check_ffi(tvm_ffi):
    array = np.arange(6, dtype="float32")
    tensor = tvm_ffi.from_dlpack(array)
    assert np.shares_memory(np.from_dlpack(tensor), array)
    assert list(tvm_ffi.convert([1, 2, 3])) == [1, 2, 3]
    assert tvm_ffi.get_global_func("vm.builtin.alloc_storage", allow_missing=True) is not None
    assert tvm_ffi.convert_func(lambda x: x + 1)(41) == 42
    assert tvm_ffi.dataclasses and tvm_ffi.cpp and tvm_ffi.core.Tensor is tvm_ffi.Tensor
"""


def python(script: str, *arguments: str | Path, **environment: str) -> str:
    """What a script says, run in a process of its own, in which ``PROBE`` has run before it."""
    command = [sys.executable, "-c", PROBE + textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_loading_and_running_import_little(tiny: Path) -> None:
    """Each of these takes milliseconds and memory that a device would pay in every process."""
    script = """
    before = set(sys.modules)
    model = load()
    model.run({"x": np.zeros((1, 32), "float32")})
    slow = {"tvm_ffi", "ml_dtypes", "email", "importlib.metadata", "tempfile", "random", "zipfile", "tomllib",
            "logging", "concurrent.futures", "subprocess", "socket", "numpy.typing", "pydantic"}
    print(sorted((set(sys.modules) - before) & slow))
    """
    assert python(script, tiny) == "[]"


@pytest.mark.parametrize("order", ["model first", "package first"])
def test_the_package_tvm_ffi_works_beside_a_model(tiny: Path, order: str) -> None:
    first = "model = load(); check(model); import tvm_ffi"
    other = "import tvm_ffi; model = load()"
    script = f"""
    {first if order == "model first" else other}
    check_ffi(tvm_ffi)
    check(model)
    print("fine")
    """
    assert python(script, tiny) == "fine"


def test_a_model_loads_where_tvm_was_imported_before(tiny: Path) -> None:
    pytest.importorskip("tvm")
    script = """
    import tvm
    model = load()
    check(model)
    print(tvm.runtime.tensor(np.ones(3)).numpy().sum())
    """
    assert python(script, tiny) == "3.0"


def test_threads_may_import_tvm_ffi_while_others_load(tiny: Path) -> None:
    script = """
    import threading
    sys.setswitchinterval(1e-6)
    together, failed = threading.Barrier(4), []
    def work(number):
        try:
            together.wait()
            if number % 2:
                check(load())
            else:
                import tvm_ffi
                assert tvm_ffi.convert_func(lambda x: x + 1)(41) == 42
        except BaseException as error:
            failed.append(repr(error))
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    import tvm_ffi
    check_ffi(tvm_ffi)
    print(failed)
    """
    for _ in range(2):  # a race: one try may miss it
        assert python(script, tiny) == "[]"


def test_a_temporary_folder_that_is_not_there_is_passed_over(tiny: Path, tmp_path: Path) -> None:
    assert python("check(load()); print('fine')", tiny, TMPDIR=str(tmp_path / "gone")) == "fine"


def test_versions_are_those_of_the_metadata() -> None:
    for name, package in (("apache-tvm-ffi", "tvm_ffi"), ("numpy", "numpy"), ("msgspec", "msgspec")):
        assert shared_libraries._version_of(name, package) == metadata.version(name)
    assert shared_libraries._version_of("no-such-distribution", "no_such_package") is None


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "apache-tvm-ffi is not installed: pip install apache-tvm-ffi=="),
        ("9.9.9", "apache-tvm-ffi 9.9.9 is installed here; the runtime ABI"),
        ("0.1.14", "apache-tvm-ffi 0.1.14 is installed here; .* needs 0.1.14.post1: pip install"),
        ("0.1.14.post10", "apache-tvm-ffi 0.1.14.post10 is installed here"),
    ],
)
def test_another_tvm_ffi_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, message: str
) -> None:
    monkeypatch.setattr(shared_libraries, "_version_of", lambda *_: version)
    with pytest.raises(rt.IncompatibleDevice, match=message):
        rt.load(tiny)


def test_a_library_of_another_version_than_its_package_says_is_refused() -> None:
    class Other:
        """A library that says of itself that it is version 0.1.14."""

        def __getitem__(self, name: str) -> Any:
            assert name == "TVMFFIGetVersion"
            return lambda numbers: numbers.__setitem__(slice(0, 3), (0, 1, 14))

    with pytest.raises(
        RuntimeError, match=r"it is of version 0\.1\.14, not 0\.1\.15: install apache-tvm-ffi again"
    ):
        Interface(Other())  # type: ignore[arg-type]


@pytest.mark.parametrize("before", [None, "9.9.9"])
def test_a_package_that_is_installed_meanwhile_is_found(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    """As from a notebook, whose process has asked for it before."""
    version = shared_libraries._version_of("apache-tvm-ffi", "tvm_ffi")
    monkeypatch.setattr(shared_libraries, "_versions", {})
    with monkeypatch.context() as patch:
        patch.setattr(shared_libraries, "_look_up", lambda *_: before)
        with pytest.raises(rt.IncompatibleDevice, match="pip install"):
            shared_libraries.check_ffi()
    shared_libraries.check_ffi()
    assert shared_libraries._version_of("apache-tvm-ffi", "tvm_ffi") == version


def test_a_package_in_an_archive_has_the_version_of_its_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "packages.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("in_archive/__init__.py", "")
        file.writestr("in_archive-1.2.dist-info/METADATA", "Name: in-archive\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(str(archive))
    assert shared_libraries._version_of("in-archive", "in_archive") == "1.2"


def test_the_types_that_others_give_to_shared_functions_do_not_matter(tiny: Path) -> None:
    """The functions of Python and of tvm-ffi that ctypes keeps once for all libraries of a process."""
    script = """
    import ctypes, tvm_ffi
    for name in ("PyCapsule_New", "PyCapsule_GetPointer", "PyCapsule_IsValid", "PyCapsule_SetName"):
        getattr(ctypes.pythonapi, name).argtypes = (ctypes.c_char_p,)
    model = load()
    for name in ("PyCapsule_New", "PyCapsule_GetPointer", "PyCapsule_IsValid", "PyCapsule_SetName"):
        function = getattr(ctypes.pythonapi, name)
        function.argtypes, function.restype = (ctypes.c_double,), ctypes.c_char
    tvm_ffi.LIB.TVMFFIFunctionCall.argtypes = (ctypes.c_char_p,)
    check(model)
    print("fine")
    """
    assert python(script, tiny) == "fine"


def test_results_that_are_copied_are_the_callers_own(small_pair: Any, tmp_path: Path) -> None:
    """From several threads: each call has its own memory, whoever had it before."""
    wrong: list[int] = []
    path = small_pair.write(tmp_path / "pair.edge")

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        kept = []
        for _ in range(100):
            x = random.standard_normal((1, 32)).astype("float32")
            kept.append((x, model.run({"x": x})))
        for x, found in kept:
            if not (found["more"] == x + 1).all() or not (found["positive"] == np.maximum(x, 0)).all():
                wrong.append(seed)
            found["more"][...] = 0

    with rt.load(path, threads=1) as model:
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []


def test_a_failing_function_says_why(mlp: Any) -> None:
    shared_libraries.load_installed()
    with pytest.raises(ValueError, match="Cannot find global function no such function"):
        shared_libraries.global_function("no such function")
    with pytest.raises(AttributeError, match="no function 'nothing'"):
        load_code(mlp.code)["nothing"]
    with pytest.raises(TypeError, match="compiled code takes no object"):
        shared_libraries.global_function("ffi.Array")(object())
    with pytest.raises(Exception, match=r"nowhere\.so"):
        shared_libraries.interface().load_module(Path("/nowhere.so"))


@pytest.mark.parametrize("name", ["vm.builtin.shape_of", "vm.builtin.null_value", "runtime.NumThreads"])
def test_a_compiled_function_that_gives_no_tensors_is_refused(mlp: Any, tmp_path: Path, name: str) -> None:
    """A shape, nothing, a number: none is mistaken for the address of a tensor."""
    x = np.ones((1, 32), "float32")
    with rt.load(mlp.write(tmp_path / "a.edge"), threads=1) as model:
        assert model._first.engine is not None
        (slot,) = model._first.engine._free
        slot.call = Call(shared_libraries.global_function(name), 1 if name.endswith("shape_of") else 0)
        if name.endswith("shape_of"):
            slot.tensors = [slot.call.put(0, x)]
        with pytest.raises(rt.ArtifactError, match="the compiled function main_planned gives no tensors"):
            model.run({"x": x})
