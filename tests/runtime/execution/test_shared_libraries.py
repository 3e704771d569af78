"""Finding tvm-ffi and the TVM runtime, and living beside packages that load the same libraries."""

from __future__ import annotations

import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import edgec.runtime as rt
from edgec.runtime.execution import shared_libraries
from tests.runtime.processes import probe, run_python


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
    assert probe(script, tiny) == "fine"


def test_a_model_loads_where_tvm_was_imported_before(tiny: Path) -> None:
    pytest.importorskip("tvm", reason="the compiler is missing: pip install 'edgec[compiler]'")
    script = """
    import tvm
    model = load()
    check(model)
    print(tvm.runtime.tensor(np.ones(3)).numpy().sum())
    """
    assert probe(script, tiny) == "3.0"


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
        assert probe(script, tiny) == "[]"


def test_a_temporary_folder_that_is_not_there_is_passed_over(tiny: Path, tmp_path: Path) -> None:
    assert probe("check(load()); print('fine')", tiny, TMPDIR=str(tmp_path / "gone")) == "fine"


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


def test_nothing_is_left_in_the_temporary_folder(tiny: Path, tmp_path: Path) -> None:
    script = "import sys, edgec.runtime as rt; model = rt.load(sys.argv[1])"
    assert run_python(script, tiny, TMPDIR=str(tmp_path)).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_runtime_library_is_found_where_it_is_named(tiny: Path, tmp_path: Path) -> None:
    script = "import sys, edgec.runtime as rt; rt.load(sys.argv[1])"
    found = shared_libraries._in_wheel()
    if found is None:
        pytest.skip("no apache-tvm wheel to take the library from: pip install 'edgec[compiler]'")
    named = tmp_path / "libtvm_runtime.so"
    named.write_bytes(found.read_bytes())
    probe = script + "; print('HERE' if sys.argv[2] in open('/proc/self/maps').read() else 'ELSEWHERE')"
    done = run_python(probe, tiny, named, EDGEC_TVM_RUNTIME=str(named))
    assert done.stdout.strip() == "HERE", done.stderr
    done = run_python(script, tiny, EDGEC_TVM_RUNTIME=str(tmp_path / "nowhere"))
    assert "EDGEC_TVM_RUNTIME names" in done.stderr
    (tmp_path / "broken.so").write_bytes(b"\x7fELF")
    done = run_python(script, tiny, EDGEC_TVM_RUNTIME=str(tmp_path / "broken.so"))
    assert "broken.so cannot be loaded on this machine" in done.stderr


def test_a_bundled_runtime_library_serves_a_machine_that_has_none(
    mlp: Any, tmp_path: Path, tiny: Path
) -> None:
    found = shared_libraries._in_wheel()
    if found is None:
        pytest.skip("no apache-tvm wheel to take the library from: pip install 'edgec[compiler]'")
    bundled = {"libtvm_runtime.so": found.read_bytes()}
    path = tmp_path / "a.edge"
    rt.write_artifact(path, config=mlp.config, code=mlp.code, weights=mlp.weights, bundled=bundled)
    script = """
    import sys, numpy as np, edgec.runtime as rt
    from edgec.runtime.execution import shared_libraries
    shared_libraries._in_wheel = lambda: None
    shared_libraries._SYSTEM_FOLDERS = ()
    print(rt.load(sys.argv[1]).run({"x": np.ones((1, 32), "float32")})["y.0"].shape)
    """
    done = run_python(script, path, TMPDIR=str(tmp_path))
    assert done.stdout.strip() == "(1, 32)", done.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.edge"]
    done = run_python(script, tiny)
    assert "set EDGEC_TVM_RUNTIME to it, install edgec's wheel for this architecture" in done.stderr
    assert "or apache-tvm==0.27.0.post1, or compile with --bundle-runtime" in done.stderr


def test_tvm_can_still_be_imported_after_the_runtime(tiny: Path) -> None:
    script = """
    import sys, numpy as np, edgec.runtime as rt
    model = rt.load(sys.argv[1]); model.run({"x": np.ones((1, 32), "float32")})
    import tvm
    print(tvm.runtime.tensor(np.ones(3)).numpy().sum())
    """
    assert run_python(script, tiny).stdout.strip() == "3.0"
