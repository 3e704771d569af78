"""`edgec.runtime`: every public name exists, and is imported on first access only."""

from __future__ import annotations

import pytest

import edgec.runtime as rt
from tests.runtime.processes import run_python


def test_every_public_name_exists() -> None:
    assert [name for name in rt.__all__ if getattr(rt, name) is None] == []
    assert set(rt.__all__) <= set(dir(rt))
    assert sorted(rt._HOMES) == sorted(rt.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'edgec\.runtime' has no attribute 'loda'"):
        _ = rt.loda


def test_importing_the_package_imports_nothing_else() -> None:
    script = """
    import sys, edgec.runtime
    print(sorted(name for name in sys.modules if name.startswith("edgec.runtime.") or name == "numpy"))
    """
    assert run_python(script).stdout.strip() == "[]"
