"""Features have one name each, declared once: in target files, in the code that asks for them, and for LLVM."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from edgec.targets import Target, list_targets, load_target
from edgec.targets.features import FEATURES
from edgec.targets.hwcap import _BITS, _BITS2

REPOSITORY = Path(__file__).resolve().parents[2]
DECLARING = {REPOSITORY / "targets/features.py", REPOSITORY / "targets/hwcap.py"}
# Names that no text means but the feature; others ("fma", "avx2" as an alias, "fp") are words as well.
DISTINCT = ("avx512", "asimd", "sse4", "dotprod")


def _texts(path: Path) -> set[str]:
    """The strings of a module that could be names of features."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {text for text in texts if text.startswith(DISTINCT)}


def test_no_code_spells_the_name_of_a_feature() -> None:
    sources = [
        path
        for folder in ("targets", "compiler", "cli", "runtime")
        for path in (REPOSITORY / folder).rglob("*.py")
    ]
    spelt = {str(path): found for path in sources if path not in DECLARING and (found := _texts(path))}
    assert not spelt, "take the constant of edgec.targets.features"


def test_the_search_finds_a_spelt_feature(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text('if "avx512vnni" in target.features: pass')
    assert _texts(tmp_path / "m.py") == {"avx512vnni"}


@pytest.mark.parametrize("target", list_targets(), ids=lambda target: target.name)
def test_a_shipped_target_names_declared_features_only(target: Target) -> None:
    assert target.features <= set(FEATURES)
    llvm = {FEATURES[name].llvm for name in target.features}
    wanted = [attribute for attribute in target.tvm.get("mattr", []) if not attribute.startswith("-")]
    assert {attribute.removeprefix("+") for attribute in wanted} <= llvm


def test_arm_features_are_those_that_linux_reports() -> None:
    reported = set(_BITS) | set(_BITS2)
    for name in load_target("rpi5").features:
        assert name in reported or FEATURES[name].aka in reported


def test_llvm_knows_every_feature_by_the_name_given_here() -> None:
    tvm = pytest.importorskip("tvm")
    known = tvm.get_global_func("target.llvm_get_cpu_features")
    for target in (target for target in list_targets() if not target.gpu):
        attributes = [f"+{FEATURES[name].llvm}" for name in sorted(target.features)]
        made = tvm.target.Target({**target.tvm, "mattr": attributes})
        found = {str(name) for name in known(made)}
        assert found >= {FEATURES[name].llvm for name in target.features}
