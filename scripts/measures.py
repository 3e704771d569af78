"""Print metrics of a checkout's structure: `python scripts/measures.py [FOLDER]`.

Import cycles (imports inside functions and those for type checkers count), files a folder, sizes of files and
functions, lines of tests by lines of code, and handlers that catch everything. Generated migrations are left out of
sizes. Works on any checkout of this repository, so that two can be compared.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

PARTS = ("targets", "runtime", "compiler", "models", "protocol", "device_agent", "fleet", "cli", "benchmarks")
FULL_FOLDER = 25


@dataclass(frozen=True)
class Source:
    """One file of Python, by its path in the checkout."""

    path: Path
    lines: int
    tree: ast.Module

    @property
    def module(self) -> str:
        """Its dotted name, as it is imported."""
        parts = self.path.with_suffix("").parts
        return ".".join(("edgec", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def sources(root: Path, folder: str) -> list[Source]:
    """All files of a folder and of those below it."""
    paths = sorted(path for path in (root / folder).rglob("*.py") if "__pycache__" not in path.parts)
    texts = [(path.relative_to(root), path.read_text(encoding="utf-8")) for path in paths]
    return [Source(path, text.count("\n"), ast.parse(text)) for path, text in texts]


def imported(tree: ast.Module, modules: set[str]) -> set[str]:
    """The modules among `modules` that a file imports anywhere."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = [f"{node.module}.{name.name}" for name in node.names]
            found |= {name if name in modules else node.module for name in full}
    return found & modules


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by others."""
    reach = {module: _reachable(module, graph) for module in graph}
    groups = {
        tuple(sorted({module} | {other for other in found if module in reach[other]}))
        for module, found in reach.items()
        if module in found
    }
    return sorted(map(list, groups), key=len, reverse=True)


def _reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def functions(source: Source) -> Iterator[tuple[int, str]]:
    """Lines and name of each function."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            yield node.end_lineno - node.lineno + 1, f"{source.path}:{node.lineno} {node.name}"


def broad_handlers(source: Source) -> Iterator[str]:
    """Handlers of `Exception`, `BaseException` or everything."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {one.id for one in caught if isinstance(one, ast.Name)}
            if node.type is None or names & {"Exception", "BaseException"}:
                yield f"{source.path}:{node.lineno}"


def report(root: Path) -> Iterator[str]:
    """The measures as lines of text."""
    code = {part: sources(root, part) for part in PARTS}
    tests = {part: sum(source.lines for source in sources(root, f"tests/{part}")) for part in PARTS}
    every = [source for part in code.values() for source in part]
    modules = {source.module for source in every}
    graph = {source.module: imported(source.tree, modules) - {source.module} for source in every}
    found = cycles(graph)
    yield f"import cycles: {len(found)}, of {', '.join(str(len(group)) for group in found) or 'no'} modules"
    yield from (f"  {' '.join(group)}" for group in found)

    folders = Counter(str(source.path.parent) for source in every)
    largest, count = folders.most_common(1)[0]
    full = [f"{folder} {held}" for folder, held in folders.most_common() if held > FULL_FOLDER]
    yield f"files a folder: at most {count} ({largest}); more than {FULL_FOLDER}: {', '.join(full) or 'none'}"

    written = [source for source in every if "versions" not in source.path.parts]
    sizes = sorted((source.lines, str(source.path)) for source in written if source.lines)
    lengths = sorted(length for source in written for length in functions(source))
    yield f"files: {len(sizes)}, median {median(lines for lines, _ in sizes):.0f} lines, largest {sizes[-1]}"
    ninety_nine = lengths[int(0.99 * (len(lengths) - 1))][0]
    yield f"functions: {len(lengths)}, 99th percentile {ninety_nine} lines, largest {lengths[-1]}"
    handlers = [handler for source in every for handler in broad_handlers(source)]
    yield f"handlers that catch everything: {len(handlers)}"
    yield from (f"  {handler}" for handler in handlers)

    yield "lines of tests by lines of code:"
    for part, held in code.items():
        lines = sum(source.lines for source in held)
        yield f"  {part:13} {tests[part]:6} / {lines:6} = {tests[part] / max(lines, 1):.2f}"


def main() -> None:
    """Print the measures of the folder that the command line names, or of this checkout."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    for line in report(root):
        print(line)


if __name__ == "__main__":
    main()
