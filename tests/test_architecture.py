"""The directions of docs/architecture.md: which package may import which, in the sources and at run time."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = (
    "targets", "runtime", "compiler", "models", "protocol", "device_agent", "fleet", "cli", "benchmarks",
)  # fmt: skip


def imports_of(source: str, modules: set[str]) -> set[str]:
    """The modules of ours that a module imports anywhere, in functions too, where no linter of layers looks."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` is an import of the module, not of the package.
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found |= {full if full in modules else node.module} & modules
    return found


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in order:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1 or module in graph[module]:
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return found


def test_no_module_imports_itself_through_others() -> None:
    files = {
        "edgec."
        + ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
    }
    modules = set(files)
    assert len(modules) > 300, "the walk misses most of the repository"
    assert cycles({name: imports_of(path.read_text(), modules) for name, path in files.items()}) == []


def test_the_walk_sees_a_cycle_through_a_function() -> None:
    sources = {
        "edgec.a": "from edgec import b",
        "edgec.b": "def f():\n    from edgec.c import g\n    return g",
        "edgec.c": "import edgec.a",
        "edgec.d": "import edgec.a",
    }
    graph = {name: imports_of(source, set(sources)) for name, source in sources.items()}
    assert cycles(graph) == [["edgec.a", "edgec.b", "edgec.c"]]


@pytest.mark.parametrize("package", ["runtime", "device_agent", "protocol", "targets"])
def test_a_device_never_imports_the_compiler(package: str) -> None:
    """Every module of a package that runs on devices is imported; none may pull in the compiler or the fleet."""
    code = f"""
import importlib, pkgutil, sys
package = importlib.import_module("edgec.{package}")
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
heavy = {{"tvm", "onnx", "onnxruntime", "edgec.compiler", "edgec.fleet", "sqlalchemy", "fastapi", "nicegui"}}
print(sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
