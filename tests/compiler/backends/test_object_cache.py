"""Object files of kernels: equal libraries with and without the cache, be it damaged, shared, full or foreign."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from edgec.compiler.backends.cpu import objects
from edgec.compiler.backends.object_cache import ObjectCache, key_of
from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.lower import lower
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Progress, Silent
from edgec.targets import load_target
from tests.compiler.onnx_models import model_of, save

SHARE = """
import sys
from pathlib import Path
from edgec.compiler.backends.object_cache import ObjectCache
cache = ObjectCache(Path(sys.argv[1]), limit=20_000)
found = 0
for turn in range(300):
    number = turn * int(sys.argv[2]) % 31
    content = bytes([number]) * 1000
    cache.put(str(number), content)
    got = cache.get(str((number + 1) % 31))
    found += got is not None
    assert got in (None, bytes([(number + 1) % 31]) * 1000)
    cache.prune()
print(found)
"""


def several_kernels() -> ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Softmax", ["r"], ["y"], axis=1),
    ]
    weight = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype("float32")
    return model_of(nodes, {"x": [1, 3, 8, 8]}, ["y"], {"w": weight})


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(several_kernels(), tmp_path_factory.mktemp("model"), "several.onnx")


class Said(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def code_of(model: Path, cache: Path, target: str = "x86-64-v2", progress: Progress | None = None) -> bytes:
    options = CompileOptions(tune="none", threads=1, cache_dir=cache)
    return lower(
        to_relax(load_source(model, options)).mod, load_target(target), options, progress or Silent()
    ).code


def test_what_is_kept_is_not_built_again(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = code_of(model_file, tmp_path)

    def never(*_: object) -> bytes:
        raise AssertionError("built again")

    monkeypatch.setattr(objects, "_build", never)
    assert code_of(model_file, tmp_path) == first
    with pytest.raises(AssertionError, match="built again"):
        code_of(model_file, tmp_path, "x86-64-v3")


def test_damaged_files_are_built_anew(model_file: Path, tmp_path: Path) -> None:
    first = code_of(model_file, tmp_path)
    kept = {path: path.read_bytes() for path in sorted((tmp_path / "objects").glob("*.o"))}
    assert len(kept) > 1
    for number, (path, content) in enumerate(kept.items()):
        damaged = bytearray(content)
        damaged[-1] ^= 1
        path.write_bytes([bytes(damaged), content[:-1], b""][number % 3])
    assert code_of(model_file, tmp_path) == first
    assert {path: path.read_bytes() for path in kept} == kept


def test_processes_share_a_folder(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, str(tmp_path), step], stdout=subprocess.PIPE, text=True
        )
        for step in ("3", "5", "7")
    ]
    found = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(found) > 0
    assert not list((tmp_path / "objects").glob(".new-*"))


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cache.put("a", b"mine")
    assert cache.get("a") == b"mine"
    cache.folder.chmod(0o777)
    cache = ObjectCache(tmp_path)
    assert cache.get("a") is None
    cache.put("b", b"more")
    assert [path.name for path in cache.folder.iterdir()] == ["a.o"]


def test_a_compile_says_that_its_cache_is_not_used(model_file: Path, tmp_path: Path) -> None:
    said = Said()
    first = code_of(model_file, tmp_path, progress=said)
    assert not said.notes, "the folder is made"
    (tmp_path / "objects").chmod(0o775)
    assert code_of(model_file, tmp_path, progress=said) == first
    assert [str(tmp_path / "objects") in note for note in said.notes] == [True]


def test_a_folder_on_a_read_only_mount_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ObjectCache(tmp_path)
    cache.put("a", b"mine")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    assert cache.get("a") == b"mine"
    cache.put("b", b"more")
    assert cache.get("b") is None


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cache.put("a", b"mine")
    left, written = cache.folder / ".new-left", cache.folder / ".new-written"
    left.write_bytes(b"x")
    written.write_bytes(b"x")
    hours_ago = time.time() - 2 * 3600
    for path in (left, cache.folder / "a.o"):
        os.utime(path, (hours_ago, hours_ago))
    cache.prune()
    assert sorted(path.name for path in cache.folder.iterdir()) == [".new-written", "a.o"]


def test_what_is_unused_for_longest_goes_first(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=10_000)
    for number in range(12):
        cache.put(str(number), bytes([number]) * 1000)
        os.utime(cache.folder / f"{number}.o", (number, number))
    half_written = cache.folder / ".new-left"
    half_written.write_bytes(b"x")
    os.utime(half_written, (0, 0))
    assert cache.get("0") is not None  # now it is in use
    cache.prune()
    left = {int(path.stem) for path in cache.folder.glob("*.o")}
    assert left == {0, 6, 7, 8, 9, 10, 11}
    assert not half_written.exists()


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "objects").write_bytes(b"a file of that name")
    cache = ObjectCache(tmp_path)
    cache.put("a", b"x")
    cache.prune()
    assert cache.get("a") is None
    assert code_of(model_file, tmp_path) == code_of(model_file, tmp_path / "elsewhere")


def test_keys_tell_where_one_text_ends() -> None:
    assert key_of("ab", "c") != key_of("a", "bc")
    assert key_of("ab", "c") == key_of("ab", "c")
