"""A small typed builder of ONNX graphs: shapes known at every value, weights seeded by name.

Graphs look like the output of PyTorch's exporter in training-preserving mode: convolution, batch norm and activation
are separate, weights are named by module path (`layer1.0.conv1.weight`), nodes by scope (`/layer1.0/conv1/Conv`). The
builder counts parameters and multiply-adds as it goes.
"""

from edgec.models.graph.builder import save
from edgec.models.graph.graph import Graph
from edgec.models.graph.values import Value

__all__ = ["Graph", "Value", "save"]
