"""How many threads are used: on processors with siblings, on those of two speeds, within the quota of a container."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from edgec.targets import usable_cores
from edgec.targets.cores import fast_cores, usable


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n", encoding="utf-8")
    return root


def processors(siblings: list[str], capacities: list[int] | None = None) -> dict[str, str]:
    at = "sys/devices/system/cpu/cpu"
    found = {f"{at}{n}/topology/core_cpus_list": text for n, text in enumerate(siblings)}
    return found | {f"{at}{n}/cpu_capacity": str(value) for n, value in enumerate(capacities or [])}


def test_siblings_count_once(tmp_path: Path) -> None:
    root = tree(tmp_path, processors(["0,4", "1,5", "2,6", "3,7"] * 2))
    assert fast_cores(range(8), root) == 4
    assert fast_cores([0, 4], root) == 1
    assert fast_cores([0, 1, 2], root) == 3  # their siblings are not ours
    pairs = tree(tmp_path / "pairs", processors(["0-1", "0-1", "2-3", "2-3"]))
    assert fast_cores(range(4), pairs) == 2


def test_older_kernels_name_siblings_otherwise(tmp_path: Path) -> None:
    named = {
        f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}"
        for n in range(4)
    }
    assert fast_cores(range(4), tree(tmp_path, named)) == 2
    assert fast_cores(range(4), tmp_path / "nothing is told") == 4


@pytest.mark.parametrize(
    ("capacities", "count"),
    [
        ([414] * 4 + [1024] * 4, 4),
        ([800] * 4 + [1024] * 4, 8),
        ([250, 250, 250, 250, 870, 870, 870, 1024], 4),
    ],
    ids=["rk3588", "alike", "three kinds"],
)
def test_slow_cores_are_left_out_where_the_others_would_wait(
    capacities: list[int], count: int, tmp_path: Path
) -> None:
    root = tree(tmp_path, processors([str(n) for n in range(8)], capacities))
    assert fast_cores(range(8), root) == count


def test_small_cores_of_an_intel_processor(tmp_path: Path) -> None:
    siblings = ["0-1", "0-1", "2-3", "2-3", "4", "5"]
    root = tree(tmp_path, processors(siblings) | {"sys/devices/cpu_atom/cpus": "4-5"})
    assert fast_cores(range(6), root) == 4  # four shares at 0.6 are done before two at 1
    assert fast_cores(range(5), root) == 2


ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "100000 100000"}, 1),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/x\n2:memory:/",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        ({}, None),
    ],
    ids=["one and a half", "half", "no limit", "of a parent", "older", "older, no limit", "nothing told"],
)
def test_threads_stay_within_the_quota_of_a_container(
    files: dict[str, str], quota: int | None, tmp_path: Path
) -> None:
    assert usable(tree(tmp_path, files)) == min(ALLOWED, quota or ALLOWED)


def test_this_machine_uses_no_more_than_it_may() -> None:
    assert 1 <= usable_cores() <= ALLOWED
