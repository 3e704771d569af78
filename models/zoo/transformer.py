"""Transformers: ViT-Tiny on pictures and a four-layer BERT on tokens."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from edgec.models.graph import Graph, Value


def _heads(g: Graph, x: Value, heads: int) -> Value:
    """`[1, T, D]` to `[1, heads, T, D / heads]`."""
    _, tokens, width = x.shape
    return g.transpose(g.reshape(x, (1, tokens, heads, width // heads)), 0, 2, 1, 3)


def _attend(g: Graph, q: Value, k: Value, v: Value, mask: Value | None = None) -> Value:
    """Softmax attention of `[1, heads, T, d]`; the result is `[1, T, heads * d]`."""
    _, heads, tokens, width = q.shape
    scores = g.matmul(g.scale(q, 1 / math.sqrt(width)), g.transpose(k, 0, 1, 3, 2))
    if mask is not None:
        scores = g.add(scores, mask)
    mixed = g.transpose(g.matmul(g.softmax(scores), v), 0, 2, 1, 3)
    return g.reshape(mixed, (1, tokens, heads * width))


def _vit_block(g: Graph, x: Value, heads: int) -> Value:
    _, tokens, width = x.shape
    with g.scope("attn"):
        qkv = g.linear(g.layer_norm(x, "norm1"), 3 * width, "qkv", gain=2.0)
        split = g.transpose(g.reshape(qkv, (1, tokens, 3, heads, width // heads)), 2, 0, 3, 1, 4)
        q, k, v = (g.squeeze(part, 0) for part in g.split(split, [1, 1, 1], axis=0))
        x = g.add(x, g.linear(_attend(g, q, k, v), width, "proj"))
    with g.scope("mlp"):
        y = g.gelu(g.linear(g.layer_norm(x, "norm2"), 4 * width, "fc1"))
        return g.add(x, g.linear(y, width, "fc2"))


def vit_tiny(g: Graph) -> dict[str, Value]:
    """ViT-Ti/16 at 224×224 (Touvron et al., "DeiT", 2021; timm): 5,717,416 parameters, 1.26 G MACs."""
    width, depth, heads = 192, 12, 3
    x = g.input("input", (1, 3, 224, 224))
    x = g.conv(x, width, 16, "patch_embed.proj", stride=16, bias=True, gain=1.0)
    x = g.transpose(g.reshape(x, (1, width, 196)), 0, 2, 1)
    token, _ = g.weight("cls_token", (1, 1, width), 0.5)
    x = g.concat([Value(token, (1, 1, width)), x], axis=1)
    positions, _ = g.weight("pos_embed", (1, 197, width), 0.2)
    x = g.add(x, Value(positions, (1, 197, width)))
    for i in range(depth):
        with g.scope(f"blocks.{i}"):
            x = _vit_block(g, x, heads)
    x = g.layer_norm(x, "norm")
    first = g.squeeze(g.slice(x, 1, 0, 1), 1)
    return {"output": g.dense(first, 1000, "head")}


def _bert_layer(g: Graph, x: Value, heads: int, mask: Value) -> Value:
    width = x.shape[2]
    with g.scope("attention"):
        q, k, v = (_heads(g, g.linear(x, width, f"self.{n}"), heads) for n in ("query", "key", "value"))
        y = g.linear(_attend(g, q, k, v, mask), width, "output.dense")
        x = g.layer_norm(g.add(y, x), "output.LayerNorm", eps=1e-12)
    y = g.gelu(g.linear(x, 4 * width, "intermediate.dense"))
    return g.layer_norm(g.add(g.linear(y, width, "output.dense"), x), "output.LayerNorm", eps=1e-12)


def _bert_embeddings(g: Graph, tokens: Value, kinds: Value, width: int) -> Value:
    length = tokens.shape[1]
    shape = (1, length, width)
    with g.scope("embeddings"):
        words, _ = g.weight("word_embeddings.weight", (30522, width), 0.5)
        places, _ = g.weight("position_embeddings.weight", (512, width), 0.2)
        segments, _ = g.weight("token_type_embeddings.weight", (2, width), 0.2)
        ids = g.constant("position_ids", np.arange(length, dtype=np.int64)[None])
        x = g.add(g.gather_rows(words, tokens.name, shape), g.gather_rows(segments, kinds.name, shape))
        return g.layer_norm(g.add(x, g.gather_rows(places, ids, shape)), "LayerNorm", eps=1e-12)


def bert_mini(g: Graph) -> dict[str, Value]:
    """BERT-Mini, L=4 H=256 (Turc et al., arXiv:1908.08962): 11,170,560 parameters, at 128 tokens.

    Inputs `input_ids`, `attention_mask` and `token_type_ids`, int64 `[1, 128]`; outputs
    `last_hidden_state` `[1, 128, 256]` and `pooler_output` `[1, 256]`.
    """
    length, width, heads = 128, 256, 4
    tokens, attention, kinds = (
        g.input(name, (1, length), TensorProto.INT64)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    wide = g.reshape(attention, (1, 1, 1, length))
    kept = g.node("Cast", [wide.name], [wide.shape], to=TensorProto.FLOAT)[0]
    mask = g.scale(g.scale(kept, -1.0, 1.0), -10000.0)
    x = _bert_embeddings(g, tokens, kinds, width)
    for i in range(4):
        with g.scope(f"encoder.layer.{i}"):
            x = _bert_layer(g, x, heads, mask)
    first = g.squeeze(g.slice(x, 1, 0, 1), 1)
    return {"last_hidden_state": x, "pooler_output": g.tanh(g.dense(first, width, "pooler.dense"))}
