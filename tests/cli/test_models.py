"""``edgec models`` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from edgec.models import list_models


def edgec(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgec.cli.main", *arguments], capture_output=True, text=True, timeout=120
    )


def test_list_shows_every_model() -> None:
    table = edgec("models", "list")
    assert table.returncode == 0, table.stderr
    for entry in list_models():
        assert entry.name in table.stdout
    rows = json.loads(edgec("models", "list", "--json", "--task", "detection").stdout)
    assert {"ssdlite-mobilenetv3", "yolov8n-640"} <= {row["name"] for row in rows}
    assert {row["task"] for row in rows} == {"detection"}


def test_show_and_build(tmp_path: Path) -> None:
    shown = json.loads(edgec("models", "show", "ds-cnn", "--json").stdout)
    assert shown["inputs"] == {"input": [1, 1, 49, 10]}
    assert 'decoder = "keyword"' in shown["card"]
    done = edgec("models", "build", "ds-cnn", "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.onnx", "model.toml"]


def test_unknown_model_exits_with_a_message(tmp_path: Path) -> None:
    done = edgec("models", "build", "resnet19", "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "resnet18" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
