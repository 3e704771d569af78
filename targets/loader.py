"""Find target files: those that ship with edgec, and the user's own."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from edgec.targets.detection import detect_from
from edgec.targets.errors import BadTargetFile, UnknownTarget
from edgec.targets.recognition import machine_of, recognise
from edgec.targets.target import Target, make_target, read_target_file

_SHIPPED = Path(__file__).resolve().parent


def _folders() -> list[Path]:
    """The folders of target files; names in a later folder override those in an earlier one."""
    folders = [_SHIPPED, Path("~/.config/edgec/targets").expanduser()]
    if own := os.environ.get("EDGEC_TARGETS"):
        folders.append(Path(own))
    return folders


def _files() -> dict[str, Path]:
    """Target names and the file of each, read from the files' own `name` key."""
    found: dict[str, Path] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
            found[read_target_file(path)["name"]] = path
    return found


def _resolve(path: Path, files: dict[str, Path], seen: tuple[str, ...] = ()) -> Target:
    content = read_target_file(path)
    name, base_name = content["name"], content.get("extends")
    if base_name is None:
        return make_target(content, path, None)
    if base_name in (*seen, name):
        raise BadTargetFile(f"{path}: `extends` is circular: {' → '.join((*seen, name, base_name))}")
    if base_name not in files:
        raise BadTargetFile(f"{path}: extends {base_name!r}, which is not a known target")
    return make_target(content, path, _resolve(files[base_name], files, (*seen, name)))


def list_targets() -> list[Target]:
    """Every target known here, shipped ones and the user's, by name."""
    files = _files()
    return sorted((_resolve(path, files) for path in files.values()), key=lambda target: target.name)


def load_target(name_or_path: str) -> Target:
    """The target of a name, an alias, `host` (this machine), or a path to a TOML file.

    Raises:
        UnknownTarget: nothing has this name; the message suggests similar ones.
        BadTargetFile: a target file is not valid.
    """
    if name_or_path in ("host", "native"):
        return detect()
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UnknownTarget(f"there is no target file {name_or_path}")
        return _resolve(path, _files())
    targets = list_targets()
    for target in targets:
        if target.name == name_or_path:
            return target
    for target in targets:
        if name_or_path.lower() in target.aliases:
            return target
    names = [name for target in targets for name in (target.name, *target.aliases)]
    near = difflib.get_close_matches(name_or_path.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UnknownTarget(f"unknown target {name_or_path!r}; {hint}`edgec targets list` shows all of them")


def detect() -> Target:
    """This machine: the most capable known target that it supports, with its own cores, caches and memory.

    Raises:
        UnknownTarget: no target fits (an architecture that none of them describes).
    """
    return detect_from(list_targets())


def detect_other(cpuinfo: str) -> Target:
    """The target of another machine, from the text of its `/proc/cpuinfo`.

    Raises:
        UnknownTarget: no target fits, or the text is of no 64-bit machine.
    """
    return recognise(machine_of(cpuinfo), list_targets())
