"""How many threads of a process compute at once: cores and not their siblings, fast ones, within a quota of time."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path("/")
ATOM = 0.6  # of a large core's speed: that of a small one of the same Intel processor


def usable(root: Path = ROOT, allowed: Collection[int] | None = None) -> int:
    """How many threads a kernel should be divided among.

    Two threads of one core share its units; a share of a kernel on a slow core is what the others wait for; and beyond
    the quota of a container, threads that spin use up the time of those that compute.

    Args:
        root: where `/proc` and `/sys` lie.
        allowed: the processors that the threads may run on; None for those of the calling thread.
    """
    if allowed is None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    quota = _quota(root)
    count = fast_cores(allowed, root)
    return count if quota is None else max(1, min(count, int(quota)))


def fast_cores(allowed: Collection[int], root: Path = ROOT) -> int:
    """How many of the cores with the processors `allowed` finish equal shares of a kernel first."""
    small = _listed(_read(root / "sys/devices/cpu_atom/cpus"))
    speeds: dict[frozenset[int], float] = {}
    for number in allowed:
        folder = root / f"sys/devices/system/cpu/cpu{number}"
        siblings = _listed(
            _read(folder / "topology/core_cpus_list") or _read(folder / "topology/thread_siblings_list")
        )
        capacity = _read(folder / "cpu_capacity")
        speed = float(capacity) if capacity.isdigit() else ATOM if number in small else 1.0
        core = (siblings & frozenset(allowed)) or frozenset({number})
        speeds[core] = max(speed, speeds.get(core, 0.0))
    sorted_speeds = sorted(speeds.values(), reverse=True)
    return max(range(1, len(sorted_speeds) + 1), key=lambda k: (k * sorted_speeds[k - 1], -k), default=1)


def _quota(root: Path) -> float | None:
    """Processors' time that control groups grant this process a second, in processors; None without a limit."""
    return min(_quotas(root), default=None)


def _quotas(root: Path) -> Iterator[float]:
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = (
            ["sys/fs/cgroup"] if not controllers else [f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"]
        )
        for mount in mounts:
            # In a container the path may be that of the host, of which the container sees the end alone.
            steps = [part for part in path.split("/") if part not in ("", "..")]
            for depth in range(len(steps), -1, -1):
                folder = (root / mount).joinpath(*steps[:depth])
                limit, period = _limit(folder)
                if limit > 0 and period > 0:
                    yield limit / period


def _limit(folder: Path) -> tuple[float, float]:
    """Microseconds of processors' time, and of the period in which they may be used; 0 where nothing limits."""
    both = _read(folder / "cpu.max").split()
    if not both:
        both = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
    return (float(both[0]), float(both[1])) if len(both) == 2 and all(map(str.isdigit, both)) else (0.0, 0.0)


def _listed(text: str) -> frozenset[int]:
    """The numbers of a list such as `0-3,8`."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit():
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
