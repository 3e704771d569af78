"""`rt.load`: what it imports, what it hashes meanwhile, and where it loads from."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.artifact import oci
from tests.runtime.processes import probe, run_python


def test_loading_and_running_import_little(tiny: Path) -> None:
    """Each of these takes milliseconds and memory that a device would pay in every process."""
    script = """
    before = set(sys.modules)
    model = load()
    model.run({"x": np.zeros((1, 32), "float32")})
    slow = {"tvm_ffi", "ml_dtypes", "email", "importlib.metadata", "tempfile", "random", "zipfile", "tomllib",
            "logging", "concurrent.futures", "subprocess", "socket", "numpy.typing", "pydantic", "dataclasses"}
    print(sorted((set(sys.modules) - before) & slow))
    """
    assert probe(script, tiny) == "[]"


BLOCKED = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tvm", "onnx", "onnxruntime", "torch", "ml_dtypes", "scipy"):
            raise ImportError(f"{name} is blocked here")
sys.meta_path.insert(0, Block())
"""


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
    done = run_python(BLOCKED + textwrap.dedent(script), tiny, tmp_path)
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
        done = run_python(script, tiny)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_refused_artifact_does_not_keep_the_process(mlp: Any, tmp_path: Path) -> None:
    """Hashing its weights takes for ever here, unless it is cancelled."""
    path = mlp.write(tmp_path / "a.edge", arch="riscv64")
    script = """
    import sys, threading, time, edgec.runtime as rt
    from edgec.runtime.artifact import oci
    def digest_of(content, cancelled=lambda: False):
        while threading.current_thread().name == "edgec-hash" and not cancelled():
            time.sleep(0.001)
        return genuine(content)
    genuine, oci.digest_of = oci.digest_of, digest_of
    try:
        rt.load(sys.argv[1])
    except rt.IncompatibleDevice as error:
        print(error)
    assert not any(thread.name == "edgec-hash" for thread in threading.enumerate())  # the file may change now
    """
    done = run_python(script, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "(riscv64); this machine is" in done.stdout


@pytest.mark.parametrize("fault", ["cannot start", "dies"])
def test_a_process_that_gets_no_thread_to_hash_with_loads_all_the_same(
    tiny: Path, tmp_path: Path, reference: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def digest_of(content: Any, _cancelled: object = None) -> str:
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
