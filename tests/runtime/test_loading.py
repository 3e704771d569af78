"""Loading: every check before any code, in a process without the compiler, from memory, with shared
weights.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgec.runtime as rt
from edgec.runtime import artifact_loader, compatibility
from edgec.runtime.artifact import oci
from edgec.runtime.execution import shared_libraries

BLOCKED = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tvm", "onnx", "onnxruntime", "torch", "ml_dtypes", "scipy"):
            raise ImportError(f"{name} is blocked here")
sys.meta_path.insert(0, Block())
"""


def python(script: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def test_a_device_without_the_compiler_loads_and_runs(
    tiny: Path, reference: Callable[[Any], Any], tmp_path: Path
) -> None:
    x = np.random.default_rng(1).standard_normal((1, 32)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    script = """
    import numpy as np, edgec.runtime as rt
    with rt.load(sys.argv[1], threads=1) as model:
        np.save(sys.argv[2] + "/y.npy", model.run({"x": np.load(sys.argv[2] + "/x.npy")})["y.0"])
        assert [layer.op for layer in model.profile({"x": np.load(sys.argv[2] + "/x.npy")}, 2)]
    held = {name.partition(".")[0] for name in sys.modules}
    assert not held & {"tvm", "onnx", "onnxruntime", "torch"}, held
    # What takes long to import and serves pictures, sounds and messages is not paid for by who runs arrays.
    assert not held & {"pydantic", "cv2"}, held
    """
    done = python(BLOCKED + textwrap.dedent(script), tiny, tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), reference(x), rtol=1e-5, atol=1e-6)


def test_a_process_may_begin_with_several_threads_that_load(tiny: Path) -> None:
    """As an agent with several models does. What is worked out once has to be whole before another thread sees it."""
    script = """
    import sys, threading
    import edgec.runtime as rt
    sys.setswitchinterval(1e-6)
    together = threading.Barrier(4)
    def load():
        together.wait()
        rt.load(sys.argv[1], threads=1).close()
    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    """
    for _ in range(3):  # a race: one try may miss it
        done = python(script, tiny)
        assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_left_in_the_temporary_folder(tiny: Path, tmp_path: Path) -> None:
    script = "import sys, edgec.runtime as rt; model = rt.load(sys.argv[1])"
    assert python(script, tiny, TMPDIR=str(tmp_path)).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "left_over",
    [
        "keep = model.run({'x': x})",
        "model.close(); ",
        "keep = model.run({'x': x}); model.close()",
        "import builtins; builtins.keep = [model, model.run({'x': x}), model._first.engine]",
        "keep = model.run({'x': x}); cycle = [keep, model]; cycle.append(cycle)",
        "import threading; threading.Thread(target=lambda: model.run({'x': x})).start()",
        "import sys; sys.exit(3)",
    ],
)
def test_a_process_ends_cleanly_whatever_it_still_holds(tiny: Path, left_over: str) -> None:
    script = f"""
    import sys, numpy as np, edgec.runtime as rt
    model = rt.load(sys.argv[1]); x = np.zeros((1, 32), "float32"); model.run({{"x": x}})
    {left_over}
    """
    done = python(script, tiny)
    assert done.returncode == (3 if "exit" in left_over else 0), done.stderr
    assert "Segfault" not in done.stderr


def test_outputs_stay_valid_after_the_model_is_gone(tiny: Path, reference: Callable[[Any], Any]) -> None:
    x = np.random.default_rng(2).standard_normal((1, 32)).astype("float32")
    with rt.load(tiny) as model:
        kept = [model.run({"x": x * number})["y.0"] for number in range(4)]
    del model
    for number, output in enumerate(kept):
        np.testing.assert_allclose(output, reference(x * number), rtol=1e-5, atol=1e-6)
        assert output.flags.writeable


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"arch": "riscv64", "target": "board"}, r"compiled for board \(riscv64\); this machine is"),
    (
        {"required_features": ("avx2", "telepathy", "warp")},
        r"has telepathy, warp; this machine's processor has not",
    ),
    ({"runtime_abi": "tvm-9.9+ffi-0.1"}, r"runtime ABI tvm-9\.9\+ffi-0\.1; this edgec has tvm-0\.27"),
    ({"min_glibc": "99.1"}, r"needs glibc 99\.1; this system has"),
    ({"device_kind": "cuda"}, r"a cuda device; this runtime drives CPUs only"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_machine_that_lacks_something_is_told_what(
    mlp: Any, changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_loader, "load_code", lambda code: pytest.fail("code was loaded"))
    with pytest.raises(rt.IncompatibleDevice, match=message):
        rt.load(mlp.write(tmp_path / "a.edge", **changes))


def test_a_system_without_glibc_is_refused(mlp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "machine_glibc", lambda: None)
    with pytest.raises(rt.IncompatibleDevice, match="this system has another C library"):
        rt.check_device(mlp.config)


def test_code_of_another_architecture_than_the_config_says_is_refused(mlp: Any, tmp_path: Path) -> None:
    code = mlp.code[:18] + (243).to_bytes(2, "little") + mlp.code[20:]
    rt.write_artifact(tmp_path / "a.edge", config=mlp.config, code=code, weights=mlp.weights)
    with pytest.raises(rt.ArtifactError, match="but its code is for riscv64"):
        rt.load(tmp_path / "a.edge")
    rt.write_artifact(tmp_path / "b.edge", config=mlp.config, code=b"import os", weights=mlp.weights)
    with pytest.raises(rt.ArtifactError, match="no shared library"):
        rt.load(tmp_path / "b.edge")


def test_a_missing_weight_is_named(mlp: Any, tmp_path: Path) -> None:
    weights = dict(list(mlp.weights.items())[1:])
    rt.write_artifact(tmp_path / "a.edge", config=mlp.config, code=mlp.code, weights=weights)
    with pytest.raises(rt.ArtifactError, match=re.escape(f"lack {next(iter(mlp.weights))!r}")):
        rt.load(tmp_path / "a.edge")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_altered_artifact_never_runs_code(
    data: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tiny.read_bytes()
    where = data.draw(st.integers(0, len(content) - 1))
    flipped = content[where] ^ data.draw(st.integers(1, 255))
    path = tmp_path / "altered.edge"
    path.write_bytes(content[:where] + bytes([flipped]) + content[where + 1 :])
    with monkeypatch.context() as patch:
        patch.setattr(artifact_loader, "load_code", lambda code: pytest.fail("code was loaded"))
        patch.setattr(artifact_loader, "ensure_runtime", lambda bundled: pytest.fail("a library was loaded"))
        with pytest.raises(rt.ArtifactError):
            rt.load(path)


@pytest.mark.parametrize("change", [(b",", b"e"), (b'"', b"x"), (b":", b";"), (b"1", b"9")])
def test_a_damaged_header_of_weights_is_said_to_be_damage(
    mlp: Any, tmp_path: Path, change: tuple[bytes, bytes]
) -> None:
    """With an ``e`` for a comma the shape ``[1,1024]`` is ``[1e1024]``: more than Python's numbers reach."""
    weights = mlp.weights | {"more": np.zeros((1, 1024), "uint8")}
    path = tmp_path / "damaged.edge"
    rt.write_artifact(path, config=mlp.config, code=mlp.code, weights=weights)
    content = path.read_bytes()
    where = content.index(b"[1,1024]")
    damaged = content[where:].replace(*change, 1)
    path.write_bytes(content[:where] + damaged)
    with pytest.raises(
        rt.ArtifactError, match=re.escape(f"{path}: weights.safetensors was altered (its digest differs)")
    ):
        rt.load(path)
    with pytest.raises(
        rt.ArtifactError, match=re.escape(f"{path}: the artifact's weights are not well-formed")
    ):
        rt.Artifact.open(path).weights()


def test_a_refused_artifact_does_not_keep_the_process(mlp: Any, tmp_path: Path) -> None:
    """Hashing its weights takes for ever here; whoever was told so may end."""
    path = mlp.write(tmp_path / "a.edge", arch="riscv64")
    script = """
    import sys, threading, edgec.runtime as rt
    from edgec.runtime.artifact import oci
    def digest_of(content):
        if threading.current_thread().name == "edgec-hash":
            threading.Event().wait()
        return genuine(content)
    genuine, oci.digest_of = oci.digest_of, digest_of
    try:
        rt.load(sys.argv[1])
    except rt.IncompatibleDevice as error:
        print(error)
    """
    done = python(script, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "(riscv64); this machine is" in done.stdout


@pytest.mark.parametrize("fault", ["cannot start", "dies"])
def test_a_process_that_gets_no_thread_to_hash_with_loads_all_the_same(
    tiny: Path, tmp_path: Path, reference: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def digest_of(content: Any) -> str:
        if threading.current_thread().name == "edgec-hash":
            raise MemoryError
        return genuine(content)

    genuine = oci.digest_of
    x = np.ones((1, 32), "float32")
    altered = bytearray(tiny.read_bytes())
    altered[altered.index(b"data_offsets")] ^= 1
    (tmp_path / "altered.edge").write_bytes(altered)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda _: None)
        if fault == "dies":
            patch.setattr(oci, "digest_of", digest_of)
        else:
            patch.setattr(threading.Thread, "start", refuse)
        model = rt.load(tiny, threads=1)
        with pytest.raises(rt.ArtifactError, match="was altered"):
            rt.load(tmp_path / "altered.edge")
    with model:
        np.testing.assert_allclose(model.run({"x": x})["y.0"], reference(x), rtol=1e-5, atol=1e-6)


def test_a_layout_folder_loads_by_digest(tiny: Path, tmp_path: Path, reference: Callable[[Any], Any]) -> None:
    digest = rt.unpack_to_layout(tiny, tmp_path)
    x = np.ones((1, 32), "float32")
    with rt.load(tmp_path, digest=digest) as model:
        assert model.manifest_digest == digest
        np.testing.assert_allclose(model.run({"x": x})["y.0"], reference(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(rt.ArtifactError, match="holds no artifact"):
        rt.load(tmp_path, digest="sha256:" + "0" * 64)


def test_weights_are_used_where_the_file_is_mapped(mlp: Any, tmp_path: Path) -> None:
    """What TVM computes with lies at the addresses of the file's mapping, and its pages stay the file's
    own.
    """
    path = mlp.write(tmp_path / "a.edge")
    with rt.load(path) as model:
        model.run({"x": np.ones((1, 32), "float32")})
        mapped = [
            [int(end, 16) for end in line.split()[0].split("-")]
            for line in Path("/proc/self/maps").read_text().splitlines()
            if line.endswith(str(path))
        ]
        assert model._first.engine is not None
        for tensor in model._first.engine.weights:
            assert any(low <= tensor.data_ptr() < high for low, high in mapped)
        assert private_bytes(path) == 0


def private_bytes(path: Path) -> int:
    """Bytes of the file's mapping that this process has a copy of for itself."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Private_Dirty:"):
            total += 1024 * int(line.split()[1])
    return total


def test_the_runtime_library_is_found_where_it_is_named(tiny: Path, tmp_path: Path) -> None:
    script = "import sys, edgec.runtime as rt; rt.load(sys.argv[1])"
    found = shared_libraries._in_wheel()
    if found is None:
        pytest.skip("no apache-tvm wheel to take the library from")
    named = tmp_path / "libtvm_runtime.so"
    named.write_bytes(found.read_bytes())
    probe = script + "; print('HERE' if sys.argv[2] in open('/proc/self/maps').read() else 'ELSEWHERE')"
    done = python(probe, tiny, named, EDGEC_TVM_RUNTIME=str(named))
    assert done.stdout.strip() == "HERE", done.stderr
    done = python(script, tiny, EDGEC_TVM_RUNTIME=str(tmp_path / "nowhere"))
    assert "EDGEC_TVM_RUNTIME names" in done.stderr
    (tmp_path / "broken.so").write_bytes(b"\x7fELF")
    done = python(script, tiny, EDGEC_TVM_RUNTIME=str(tmp_path / "broken.so"))
    assert "broken.so cannot be loaded on this machine" in done.stderr


def test_a_bundled_runtime_library_serves_a_machine_that_has_none(
    mlp: Any, tmp_path: Path, tiny: Path
) -> None:
    found = shared_libraries._in_wheel()
    if found is None:
        pytest.skip("no apache-tvm wheel to take the library from")
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
    done = python(script, path, TMPDIR=str(tmp_path))
    assert done.stdout.strip() == "(1, 32)", done.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.edge"]
    done = python(script, tiny)
    assert "set EDGEC_TVM_RUNTIME to it, install apache-tvm==0.27.0.post1, or compile with" in done.stderr


def test_tvm_can_still_be_imported_after_the_runtime(tiny: Path) -> None:
    script = """
    import sys, numpy as np, edgec.runtime as rt
    model = rt.load(sys.argv[1]); model.run({"x": np.ones((1, 32), "float32")})
    import tvm
    print(tvm.runtime.tensor(np.ones(3)).numpy().sum())
    """
    assert python(script, tiny).stdout.strip() == "3.0"
