"""Carry out the steps of Dockerfile.arm64 without a container engine, then start the agent that they install.

The base image is stood in for by a root file system of Debian's packages for arm64, with the same commands (`python`,
apt, a shell); PRoot and qemu run every process of a step in it. The agent then gets a test pattern as its camera: the
health check of the Dockerfile has to succeed, to fail while the agent is stopped, and to succeed again. The sizes of
the image's layers are printed, without those of the base image, as bytes of files that a step made or changed.

    python scripts/dockerfile_steps.py WORK [--file Dockerfile.arm64]

Needs Debian or Ubuntu with proot and qemu-user-static, a network, and some ten minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgec.cli.progress import TerminalProgress
from edgec.compiler.emulation import packages
from edgec.compiler.emulation.emulator import find_qemu

SYSTEM = [
    "python3", "python3-venv", "libstdc++6", "apt", "base-files", "base-passwd", "bash", "coreutils", "findutils",
    "grep", "sed", "login", "passwd", "util-linux", "ca-certificates", "debian-archive-keyring", "gpgv", "perl-base",
    "mawk", "debconf", "libc-bin", "hostname", "diffutils", "gzip",
]  # fmt: skip
# What the steps take from this machine: devices, the network's configuration, and where packages come from.
SHARED = (
    "/dev", "/proc", "/sys", "/etc/resolv.conf", "/etc/hosts", "/etc/ssl", "/etc/apt", "/etc/pip.conf", "/etc/xdg/pip",
    "/opt/wheels", "/opt/pypi", "/opt/pypi-more",
)  # fmt: skip
CONFIG = """[agent]
state = "/var/lib/edgec"
health_interval_s = 1.0
[streams.door]
source = { kind = "test", width = 160, height = 120, fps = 2 }
"""
HEALTHY_S = 300.0


@dataclass
class Stage:
    """A stage of the build: its root, and what instructions have set."""

    root: Path
    folder: str = "/"
    user: str = "0"
    environment: dict[str, str] = field(default_factory=dict)
    instructions: dict[str, str] = field(default_factory=dict)
    layers: list[tuple[str, int]] = field(default_factory=list)

    def command(
        self, qemu: Path, arguments: list[str], *, user: str = "0"
    ) -> tuple[list[str], dict[str, str]]:
        """The command line and environment that run a program in the root."""
        shared = [option for path in SHARED if Path(path).exists() for option in ("-b", path)]
        who = ["-0"] if user == "0" else []  # another user is a real one: who runs this, or, of root, `owner`
        line = ["proot", "-q", str(qemu), "-r", str(self.root), *shared, *who, "-w", self.folder, *arguments]
        passed = {
            k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_", "HTTP", "http", "no_proxy"))
        }
        search = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
        fixed = {"PATH": search, "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        return line, passed | fixed | self.environment


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines()]
    return [(name.upper(), rest.strip()) for name, _, rest in found if name]


def base(root: Path, scratch: Path) -> None:
    """Make the root that stands in for the base image, with a record of its packages that apt understands."""
    with TerminalProgress() as progress:
        packages.fetch(SYSTEM, "aarch64", scratch, progress)
        packages.unpack(scratch, root, progress)
    status = [
        packages.run("dpkg-deb", "-f", str(deb)).rstrip() + "\nStatus: install ok installed\n"
        for deb in sorted(scratch.glob("*.deb"))
    ]
    database = root / "var/lib/dpkg"
    for folder in (
        database / "info",
        database / "updates",
        root / "tmp",
        root / "root",
        root / "usr/local/bin",
    ):
        folder.mkdir(parents=True, exist_ok=True)
    (database / "status").write_text("\n".join(status), encoding="utf-8")
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / f"etc/{name}")
    (root / "etc/shadow").touch()
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    if not (root / "bin/sh").exists():
        (root / "bin/sh").symlink_to("bash")


def build(file: Path, work: Path, qemu: Path) -> Stage:
    """Carry out all instructions; returns the last stage."""
    image, stages, context = work / "base", dict[str, Stage](), file.parent
    if not image.is_dir():
        base(image, work / "debs")
    stage: Stage | None = None
    steps = instructions(file.read_text(encoding="utf-8"))
    # A stage that an earlier call has finished is not built again, as long as the Dockerfile is the same.
    finished, same = work / "finished", hashlib.sha256(repr(steps).encode()).hexdigest()
    if not finished.is_file() or finished.read_text(encoding="utf-8").partition(" ")[0] != same:
        finished.write_text(f"{same} ", encoding="utf-8")
    known = finished.read_text(encoding="utf-8").split()[1:]
    for name, rest in steps:
        print(f"── {name} {rest[:100]}", flush=True)
        if name == "FROM":
            if stage is not None:
                finished.write_text(" ".join([same, *stages]), encoding="utf-8")
            label = rest.partition(" AS ")[2].strip() or str(len(stages))
            stage = stages[label] = Stage(work / label)
            if label not in known:
                shutil.rmtree(work / label, ignore_errors=True)
                shutil.copytree(image, work / label, symlinks=True)
            continue
        if name in ("RUN", "COPY") and stage is not None and stage.root.name in known:
            continue
        if stage is None:
            sys.exit(f"{name} before FROM")
        before = files(stage.root)
        step(stage, stages, context, qemu, name, rest)
        made = sum(about[0] for path, about in files(stage.root).items() if before.get(path) != about)
        stage.layers.append((f"{name} {rest}", made))
    if stage is None:
        sys.exit(f"{file}: there is no FROM")
    return stage


def step(stage: Stage, stages: dict[str, Stage], context: Path, qemu: Path, name: str, rest: str) -> None:
    """Carry out one instruction of a stage."""
    if name == "RUN":
        line, environment = stage.command(qemu, ["/bin/sh", "-c", rest])
        began = time.monotonic()
        done = subprocess.run(line, env=environment, check=False)
        if done.returncode:
            sys.exit(f"the step failed with status {done.returncode}")
        print(f"   {time.monotonic() - began:.0f} s", flush=True)
    elif name == "COPY":
        options = [word for word in rest.split() if word.startswith("--")]
        *sources, target = [word for word in rest.split() if not word.startswith("--")]
        origin = next(
            (stages[word.partition("=")[2]].root for word in options if word.startswith("--from=")), context
        )
        place = stage.root / str(Path(stage.folder, target)).lstrip("/")
        for source in sources:
            copy(origin / source.lstrip("/"), place, folder=len(sources) > 1 or target.endswith("/"))
    elif name == "ENV":
        for word in shlex.split(rest):
            key, _, value = word.partition("=")
            known = stage.command(qemu, [])[1]
            stage.environment[key] = re.sub(
                r"\$(\w+)", lambda found, known=known: known.get(found[1], ""), value
            )
    elif name == "WORKDIR":
        stage.folder = rest
        (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif name == "USER":
        stage.user = rest
    elif name in ("ENTRYPOINT", "CMD", "HEALTHCHECK", "STOPSIGNAL", "VOLUME"):
        stage.instructions[name] = rest
    else:
        sys.exit(f"{name} is not known to this script")


def copy(source: Path, place: Path, *, folder: bool) -> None:
    """Copy a file or a folder's content as COPY does."""
    skipped = shutil.ignore_patterns("__pycache__", ".git")
    if source.is_dir():
        shutil.copytree(source, place, symlinks=True, dirs_exist_ok=True, ignore=skipped)
        return
    place = place / source.name if folder or place.is_dir() else place
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, place)


def start(stage: Stage, qemu: Path) -> None:
    """Start what the image starts, wait until its health check succeeds, and stop it."""
    uid = int(stage.user) if stage.user.isdecimal() else sys.exit(f"USER {stage.user} is no number")
    if uid == 0:
        sys.exit("the image runs as root")
    (stage.root / "etc/edgec").mkdir(parents=True, exist_ok=True)
    (stage.root / "etc/edgec/agent.toml").write_text(CONFIG, encoding="utf-8")
    state = stage.root / "var/lib/edgec"
    os.chmod(state, 0o777)  # noqa: PTH101 - a volume's owner is the engine's business
    begin = json.loads(stage.instructions["ENTRYPOINT"]) + json.loads(stage.instructions["CMD"])
    health = json.loads(stage.instructions["HEALTHCHECK"].partition("CMD")[2])
    line, environment = stage.command(qemu, begin, user=str(uid))
    owner = (
        uid if os.geteuid() == 0 else None
    )  # PRoot's own users would not pass the agent's checks of its files
    environment["HOME"] = "/var/lib/edgec"
    agent = subprocess.Popen(line, env=environment, start_new_session=True, user=owner, group=owner)

    def healthy() -> subprocess.CompletedProcess[str]:
        if agent.poll() is not None:
            sys.exit(f"the agent ended with status {agent.returncode}")
        line, variables = stage.command(qemu, health, user=str(uid))
        return subprocess.run(
            line, env=variables, capture_output=True, text=True, check=False, user=owner, group=owner
        )

    try:
        print(f"the health check succeeds:\n{until(healthy, succeeds=True).stdout[:600]}")
        os.killpg(agent.pid, signal.SIGSTOP)
        try:
            told = until(healthy, succeeds=False)
        finally:
            os.killpg(agent.pid, signal.SIGCONT)
        print(f"it fails while the agent hangs: status {told.returncode}, {told.stderr.strip()}")
        until(healthy, succeeds=True)
        print("it succeeds again once the agent goes on")
        os.killpg(agent.pid, signal.SIGTERM)
        print(f"stopped with status {agent.wait(60)}")
    finally:
        if agent.poll() is None:
            os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()


def until(
    healthy: Callable[[], subprocess.CompletedProcess[str]], *, succeeds: bool
) -> subprocess.CompletedProcess[str]:
    """Repeat the health check until it succeeds or fails."""
    deadline = time.monotonic() + HEALTHY_S
    while ((done := healthy()).returncode == 0) != succeeds:
        if time.monotonic() > deadline:
            told = "fails" if succeeds else "succeeds although the agent is stopped"
            sys.exit(f"the health check {told}: {done.stdout}{done.stderr}")
        time.sleep(2)
    return done


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Bytes and time of the last change of all files in a folder."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            about = os.lstat(f"{place}/{name}")
            if stat.S_ISREG(about.st_mode):
                found[f"{place}/{name}"] = (about.st_size, about.st_mtime_ns)
    return found


def main() -> None:
    """Build, start, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path, help="folder for the roots")
    parser.add_argument("--file", type=Path, default=Path("Dockerfile.arm64"))
    arguments = parser.parse_args()
    qemu = find_qemu("aarch64")
    if qemu is None or shutil.which("proot") is None:
        sys.exit("proot and qemu-user-static are needed: apt-get install proot qemu-user-static")
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    stage = build(arguments.file.absolute(), work, qemu)
    for what, made in stage.layers:
        if made:
            print(f"layer of {made / 1e6:.1f} MB: {what[:100]}")
    start(stage, qemu)


if __name__ == "__main__":
    main()
