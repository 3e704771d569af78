"""The same arguments give the same bytes; a failed write leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgec.runtime as rt
from edgec.targets import UsageError
from tests.runtime.artifact.artifacts import config, write


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.edge") == write(tmp_path / "b.edge")
    assert (tmp_path / "a.edge").read_bytes() == (tmp_path / "b.edge").read_bytes()
    assert write(tmp_path / "c.edge", version="2") != write(tmp_path / "a.edge")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path / "a.edge")
    before = (tmp_path / "a.edge").read_bytes()
    script = (
        "import resource, sys, numpy as np, edgec.runtime as rt\n"
        "from edgec.runtime.artifact.reader import Artifact\n"
        "config = Artifact.open(sys.argv[1]).config\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "rt.write_artifact(sys.argv[1], config=config, code=b'x', weights={'w': np.zeros(100_000)})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.edge")], capture_output=True, text=True, check=False
    )
    assert "File too large" in done.stderr
    assert (tmp_path / "a.edge").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.edge"]


def test_a_file_takes_the_place_of_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # as a device would be replaced by root
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name, kind in (("pipe", "a device, pipe or socket"), ("link", "a device"), ("folder", "a folder")):
        with pytest.raises(UsageError, match=f"{name}: is {kind}"):
            write(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]


def test_layers_come_in_one_order_whatever_the_order_of_the_arguments(tmp_path: Path) -> None:
    libraries = {"libb.so": b"b", "liba.so": b"a"}
    rt.write_artifact(
        tmp_path / "a.edge", config=config(), code=b"\x7fELF", weights={}, bundled=libraries, around=b"\x7fELF p",
        fallback={"1.onnx": b"1", "0.onnx": b"0"}, buckets={"wide.so": b"w"}, evidence={}, report_html="<p>",
    )  # fmt: skip
    opened = rt.Artifact.open(tmp_path / "a.edge")
    assert [layer.title for layer in opened.layers] == [
        "model.so", "wide.so", "around.so", "labels.txt", "0.onnx", "1.onnx", "liba.so", "libb.so",
        "evidence.json", "report.html",
    ]  # fmt: skip
    opened.verify_digests()


def test_a_label_of_two_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one line"):
        rt.write_artifact(tmp_path / "a.edge", config=config(), code=b"", weights={}, labels=["a\nb"])
    assert list(tmp_path.iterdir()) == []
