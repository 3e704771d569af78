"""`scripts/measures.py` on a small checkout with each of the things it counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "measures.py"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def test_it_counts_what_is_there(tmp_path: Path) -> None:
    write(
        tmp_path,
        {f"{part}/__init__.py": "" for part in ("targets", "runtime", "compiler", "models", "protocol")},
    )
    write(tmp_path, {f"{part}/__init__.py": "" for part in ("device_agent", "fleet", "cli", "benchmarks")})
    write(tmp_path, {
        "runtime/a.py": "from edgec.runtime import b\n",
        "runtime/b.py": "def late():\n    from edgec.runtime.c import x\n    return x\n",
        "runtime/c.py": "import edgec.runtime.a\nx = 1\n",
        "runtime/d.py": "from edgec.runtime import a\ntry:\n    x = 1\nexcept (OSError, Exception):\n    x = 2\n",
        "tests/runtime/test_a.py": "x = 1\n" * 6,
        "fleet/many.py": "def long():\n" + "    x = 1\n" * 99,
    })  # fmt: skip
    write(tmp_path, {f"cli/c{number}.py": "x = 1\n" for number in range(26)})
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert (
        "import cycles: 1, of 3 modules\n  edgec.runtime.a edgec.runtime.b edgec.runtime.c\n" in done.stdout
    )
    assert "files a folder: at most 27 (cli); more than 25: cli 27\n" in done.stdout
    assert "largest (100, 'fleet/many.py:1 long')" in done.stdout
    assert "handlers that catch everything: 1\n  runtime/d.py:4\n" in done.stdout
    assert "  runtime            6 /     11 = 0.55\n" in done.stdout
