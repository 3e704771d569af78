"""Variables remember the source nodes they stand for."""

from __future__ import annotations

import pytest

from edgec.compiler.graph.sources import merged_name, node_of, nodes_of


@pytest.mark.parametrize(
    ("name", "nodes"),
    [("n12_conv", (12,)), ("n3and4and9_relu", (3, 4, 9)), ("lv", ()), ("n_x", ()), ("n5", ()), ("xn5_y", ())],
)
def test_names_lead_to_nodes(name, nodes):
    assert nodes_of(name) == nodes
    assert node_of(name) == (nodes[-1] if nodes else None)


def test_a_merged_value_stands_for_the_nodes_of_all_once_each():
    assert merged_name(["n2_a", "n5and2_b", "n9_c"]) == "n2and5and9_c"
    assert nodes_of(merged_name(["n2_a", "lv1"])) == (2,)
    assert merged_name(["lv", "gv"]) == "gv"
