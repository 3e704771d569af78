"""Attention in one kernel: a block takes some queries, walks the keys in tiles, and keeps the softmax up to date.

Neither scores nor weights are ever in memory: for each tile of keys a warp computes the scores of its 16 queries,
raises the maximum of each row, corrects what was summed before by the change, and adds the values by their weights
("online softmax": Milakov and Gimelshein, 2018; in this form: Dao et al., FlashAttention, 2022). The division is
applied to the result.

Lane t of a warp holds of each 16 x 16 scores the rows t / 4 and t / 4 + 8 and, of each 8 columns, 2 (t mod 4) and the
next, as tensor cores leave their sums. With fp16 and bfloat16 both products run on them (`device/attention.cuh`), and
the next tile of keys and values is copied meanwhile. In fp32 each lane computes its elements by ordinary arithmetic.
"""

from __future__ import annotations

from tvm.tirx import PrimFunc

from edgec.compiler.backends.cuda.templates.attention_plain import Plain
from edgec.compiler.backends.cuda.templates.attention_tensor import NAMES, OnTensorCores
from edgec.compiler.backends.cuda.templates.attention_tiles import AttentionTile
from edgec.compiler.graph.attention_spec import AttentionSpec, AttentionTypes


def emit_attention(
    spec: AttentionSpec, types: AttentionTypes, tile: AttentionTile, *, tensorised: bool
) -> PrimFunc:
    """The kernel; parameters queries, keys, values, the mask if there is one, result.

    Args:
        spec: sizes and where operands lie.
        types: of the parameters.
        tile: how it is cut.
        tensorised: use tensor cores. Without, lanes compute the same by ordinary arithmetic, which runs anywhere.
    """
    kind = OnTensorCores if tensorised and types.operands in NAMES else Plain
    return kind(spec, types, tile).build()
