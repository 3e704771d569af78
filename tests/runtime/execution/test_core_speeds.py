"""Speeds of big and little cores, from a table as Linux writes it."""

from pathlib import Path

import pytest

from edgec.runtime.execution.core_speeds import speeds_of


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Four little cores and four big ones, as on an RK3588."""
    for core in range(8):
        (tmp_path / f"cpu{core}").mkdir()
        (tmp_path / f"cpu{core}" / "cpu_capacity").write_text("530\n" if core < 4 else "1024\n")
    return tmp_path


def test_each_core_has_its_speed(table: Path) -> None:
    assert speeds_of([4, 5, 0], table) == (1024, 1024, 530)


def test_equal_cores_need_no_speeds(table: Path) -> None:
    assert speeds_of([4, 5, 6, 7], table) is None
    assert speeds_of([], table) is None


def test_nothing_is_guessed_where_the_system_says_nothing(table: Path) -> None:
    (table / "cpu3" / "cpu_capacity").unlink()
    assert speeds_of([3, 4], table) is None
    (table / "cpu3" / "cpu_capacity").write_text("0\n")
    assert speeds_of([3, 4], table) is None
