"""The graph builder with all its operators."""

from __future__ import annotations

from edgec.models.graph.elementwise import Elementwise
from edgec.models.graph.layers import Layers
from edgec.models.graph.pooling import Pooling
from edgec.models.graph.reshaping import Reshaping


class Graph(Layers, Elementwise, Pooling, Reshaping):
    """An ONNX graph under construction; `finish` makes the model."""
