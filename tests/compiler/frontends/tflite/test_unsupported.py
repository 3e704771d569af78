"""Every operator of the schema is compiled, or there is a reason why not; the documentation has the table."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert", reason="optional: pip install 'edgec[tflite]'")
from ai_edge_litert import schema_py_generated as schema

from edgec.compiler.frontends.tflite import load as _converters  # noqa: F401 - importing them fills the table
from edgec.compiler.frontends.tflite.registry import CONVERTERS
from edgec.compiler.frontends.tflite.unsupported import LIMITS, UNSUPPORTED

ROOT = Path(__file__).parents[4]


def test_every_operator_is_compiled_or_has_a_reason() -> None:
    kinds = {name for name in vars(schema.BuiltinOperator) if not name.startswith("_")}
    assert kinds <= CONVERTERS.keys() | UNSUPPORTED.keys()
    assert not CONVERTERS.keys() & UNSUPPORTED.keys()
    assert LIMITS.keys() <= CONVERTERS.keys()


def test_the_table_in_the_documentation_is_of_this_code() -> None:
    script = ROOT / "scripts" / "tflite_operators.py"
    spec = importlib.util.spec_from_file_location("tflite_operators", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "tflite-operators.md").read_text(encoding="utf-8") == module.table()
