"""Inception-v3 (Szegedy et al., CVPR 2016), as torchvision has it, without the auxiliary classifier."""

from __future__ import annotations

from edgec.models.graph import Graph, Value

Shape = tuple[int, int]


def _conv(
    g: Graph, x: Value, out: int, kernel: int | Shape, name: str, stride: int = 1, same: bool = True
) -> Value:
    kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
    ph, pw = ((kh - 1) // 2, (kw - 1) // 2) if same else (0, 0)
    with g.scope(name):
        x = g.conv(x, out, (kh, kw), "conv", stride=stride, padding=(ph, pw, ph, pw))
        return g.relu(g.batch_norm(x, "bn"))


def _chain(g: Graph, x: Value, name: str, *steps: tuple[int, int | Shape]) -> Value:
    for i, (out, kernel) in enumerate(steps, 1):
        x = _conv(g, x, out, kernel, f"{name}_{i}")
    return x


def _pool_branch(g: Graph, x: Value, out: int) -> Value:
    return _conv(g, g.avg_pool(x, 3, 1, 1), out, 1, "branch_pool")


def _block_a(g: Graph, x: Value, pool: int) -> Value:
    single = _conv(g, x, 64, 1, "branch1x1")
    five = _chain(g, x, "branch5x5", (48, 1), (64, 5))
    double = _chain(g, x, "branch3x3dbl", (64, 1), (96, 3), (96, 3))
    return g.concat([single, five, double, _pool_branch(g, x, pool)])


def _block_b(g: Graph, x: Value) -> Value:
    three = _conv(g, x, 384, 3, "branch3x3", stride=2, same=False)
    double = _chain(g, x, "branch3x3dbl", (64, 1), (96, 3))
    double = _conv(g, double, 96, 3, "branch3x3dbl_3", stride=2, same=False)
    return g.concat([three, double, g.max_pool(x, 3, 2)])


def _block_c(g: Graph, x: Value, c: int) -> Value:
    row, column = (1, 7), (7, 1)
    single = _conv(g, x, 192, 1, "branch1x1")
    seven = _chain(g, x, "branch7x7", (c, 1), (c, row), (192, column))
    double = _chain(g, x, "branch7x7dbl", (c, 1), (c, column), (c, row), (c, column), (192, row))
    return g.concat([single, seven, double, _pool_branch(g, x, 192)])


def _block_d(g: Graph, x: Value) -> Value:
    three = _conv(g, x, 192, 1, "branch3x3_1")
    three = _conv(g, three, 320, 3, "branch3x3_2", stride=2, same=False)
    seven = _chain(g, x, "branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)))
    seven = _conv(g, seven, 192, 3, "branch7x7x3_4", stride=2, same=False)
    return g.concat([three, seven, g.max_pool(x, 3, 2)])


def _fork(g: Graph, x: Value, name: str) -> Value:
    return g.concat([_conv(g, x, 384, (1, 3), f"{name}a"), _conv(g, x, 384, (3, 1), f"{name}b")])


def _block_e(g: Graph, x: Value) -> Value:
    single = _conv(g, x, 320, 1, "branch1x1")
    three = _fork(g, _conv(g, x, 384, 1, "branch3x3_1"), "branch3x3_2")
    double = _fork(g, _chain(g, x, "branch3x3dbl", (448, 1), (384, 3)), "branch3x3dbl_3")
    return g.concat([single, three, double, _pool_branch(g, x, 192)])


def inception_v3(g: Graph) -> dict[str, Value]:
    """Inception-v3 at 299×299: 5.713 G multiply-adds and 27,161,264 parameters (torchvision).

    3,326,696 of those are the auxiliary classifier's, which inference does not run: 23,834,568 stay.
    """
    g.eps = 1e-3
    x = g.input("input", (1, 3, 299, 299))
    x = _conv(g, x, 32, 3, "Conv2d_1a_3x3", stride=2, same=False)
    x = _conv(g, x, 32, 3, "Conv2d_2a_3x3", same=False)
    x = g.max_pool(_conv(g, x, 64, 3, "Conv2d_2b_3x3"), 3, 2)
    x = _conv(g, x, 80, 1, "Conv2d_3b_1x1")
    x = g.max_pool(_conv(g, x, 192, 3, "Conv2d_4a_3x3", same=False), 3, 2)
    for name, pool in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        with g.scope(name):
            x = _block_a(g, x, pool)
    with g.scope("Mixed_6a"):
        x = _block_b(g, x)
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        with g.scope(name):
            x = _block_c(g, x, width)
    with g.scope("Mixed_7a"):
        x = _block_d(g, x)
    for name in ("Mixed_7b", "Mixed_7c"):
        with g.scope(name):
            x = _block_e(g, x)
    return {"output": g.dense(g.flatten(g.global_pool(x)), 1000, "fc")}
