"""Names of Relax operators by what they do to their operands, as `op_name` returns them."""

from __future__ import annotations

# One operand whose elements are mapped one by one; other arguments are numbers.
UNARY = (
    "nn.relu", "nn.relu6", "nn.leakyrelu", "nn.gelu", "nn.gelu_tanh", "nn.silu", "nn.selu", "nn.softplus", "sigmoid",
    "tanh", "exp", "abs", "negative", "erf", "clip", "sqrt", "rsqrt", "square", "floor", "ceil", "round", "log", "sin",
    "cos",
)  # fmt: skip
