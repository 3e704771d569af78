"""The table of what quantisation costs: a trained network, a few examples, true labels."""

from pathlib import Path

import pytest

from edgec.benchmarks.quantised import accuracy


def test_digits_keep_their_classes(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "EXAMPLES", 32)
    (network,) = (one for one in accuracy.NETWORKS if one.name == "mnist_pytorch_logsoftmax")
    row = accuracy.row_of(network, shared_data, tmp_path)
    whole = row.choice.all_in_int8
    assert whole.examples == 48
    assert whole.exact is not None
    assert whole.exact > 0.7
    assert whole.drop is not None
    assert abs(whole.drop.value) <= 0.05
    assert accuracy.table([row]).splitlines()[2] == row.line()
    assert "| 4 of 4:" in row.line()
