"""ONNX Runtime's time by node of the source, whatever its optimiser calls the node."""

from __future__ import annotations

from edgec.compiler.verify.reference_layers import by_node


def event(name: str, us: float, cat: str = "Node") -> dict[str, object]:
    return {"cat": cat, "name": name, "dur": us}


def test_fused_and_relaid_nodes_belong_to_the_node_that_they_came_from() -> None:
    events = [
        event("conv1_kernel_time", 1000.0),
        event("conv1_kernel_time", 3000.0),
        event("conv1_kernel_time", 2000.0),
        event("fused conv2_kernel_time", 500.0),
        event("c3_nchwc_kernel_time", 250.0),
        event("c3_nchwc_token_7_kernel_time", 250.0),
        event("ReorderOutput_kernel_time", 100.0),
        event("model_run", 9000.0, "Session"),
        event("conv1_fence_before", 1.0),
    ]
    found = by_node(events, {"c3": "conv3"}, {"conv1", "conv2", "conv3"})
    assert found == {"conv1": 2.0, "conv2": 0.5, "conv3": 0.5, "": 0.1}
