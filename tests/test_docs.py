"""The documentation names only what exists: paths, modules, tests, links, and commands with their options."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from edgec.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = (
    "targets",
    "runtime",
    "compiler",
    "models",
    "protocol",
    "device_agent",
    "fleet",
    "cli",
    "benchmarks",
)
# What docs/extending.md and docs/architecture.md announce or leave to the reader's choice.
TO_COME = re.compile(r"NAME|FAMILY|KIND|cuda")


@cache
def tree() -> frozenset[str]:
    """All files of the repository and their folders."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("optional: not a git checkout, so there is no list of its files")
    files = [Path(line) for line in listed.stdout.splitlines()]
    return frozenset(str(path) for file in files for path in (file, *file.parents))


def code(page: Path) -> Iterator[str]:
    """The words of all code in backticks."""
    for span in re.findall(r"`([^`\n]+)`", page.read_text()):
        yield from (word.rstrip(".,:/") for word in span.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_modules_exist(page: Path) -> None:
    missing = []
    for word in code(page):
        if TO_COME.search(word):
            continue
        if re.fullmatch(rf"({'|'.join(PACKAGES)}|tests|scripts|docs|deploy|examples)(/[\w.-]+)+", word):
            missing += [word] if word not in tree() else []
        elif re.fullmatch(rf"edgec\.({'|'.join(PACKAGES)})(\.\w+)*", word):
            module = word.removeprefix("edgec.").replace(".", "/")
            names = (module, f"{module}.py", f"{Path(module).parent}.py")  # the last for a name in a module
            missing += [word] if not tree().intersection(names) else []
        elif test := re.fullmatch(r"(\w+\.py)::(\w+)", word):
            files = [path for path in tree() if path.endswith(f"/{test[1]}")]
            found = any(f"def {test[2]}(" in (ROOT / path).read_text() for path in files)
            missing += [word] if not found else []
        elif re.fullmatch(r"\w+\.py", word):
            missing += [word] if not any(path.endswith(f"/{word}") or path == word for path in tree()) else []
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        titles = re.findall(r"^#+ (.+)$", file.read_text(), re.M) if file.is_file() and heading else []
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        if not file.exists() or (heading and heading not in anchors):
            broken.append(target)
    assert not broken


@cache
def commands() -> Any:
    if not main.app.registered_groups:
        main._add_commands()
    return typer.main.get_command(main.app)


def calls(page: Path) -> Iterator[str]:
    """Calls of `edgec` in backticks and in code blocks, without their comments."""
    text = page.read_text()
    yield from re.findall(r"`edgec ([^`\n]+)`", text)
    for block in re.findall(r"^```(?:console)?\n(.*?)^```$", text, re.M | re.S):
        yield from re.findall(r"^edgec ([a-z][^#\n]+)", block, re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    unknown = []
    for call in (one for line in calls(page) for one in re.split(r"; edgec ", line)):
        command, words = commands(), call.split()
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        options = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        is_group = hasattr(command, "commands")
        if (is_group and words and re.match(r"[a-z]", words[0])) or options - known - {"--help"}:
            unknown.append(call)
    assert not unknown


@pytest.mark.parametrize("folder", PACKAGES)
def test_code_is_marked_one_way(folder: str) -> None:
    """In comments and docstrings by single backticks, without roles of a documentation tool."""
    odd = re.compile(r"``[^`\n]+``|:(?:mod|class|func|meth|attr|data|exc|obj):`")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if odd.search(line)
    ]
    assert found == []
