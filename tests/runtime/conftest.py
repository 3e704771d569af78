"""Small artifacts, compiled here once a session by TVM itself, with all the compiler's passes in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgec.runtime as rt
from edgec.targets import detect

SIZE = 32


@dataclasses.dataclass(frozen=True)
class Built:
    """What an artifact is made of, so that a test can make a wrong one."""

    config: rt.ArtifactConfig
    code: bytes
    weights: dict[str, Any]
    calls: bytes | None = None

    def write(self, path: Path, *, straight: bool = False, **changes: Any) -> Path:
        """Write the artifact, with the table of its calls (`straight`) or without, so that it runs in the machine."""
        config = msgspec.structs.replace(self.config, **changes)
        programs = {"program.json": self.calls} if straight and self.calls else {}
        bundled = {}
        if straight:
            from edgec.compiler.backends.cpu.thread_pool import pool_library

            bundled = {"libedgec_pool.so": pool_library(config.arch, None)}
        rt.write_artifact(
            path, config=config, code=self.code, weights=self.weights, programs=programs, bundled=bundled
        )
        return path


def spec(name: str, shape: Sequence[int], dtype: str = "float32") -> rt.TensorSpec:
    return rt.TensorSpec(name=name, safe_name=name.replace(".", "_"), shape=tuple(shape), dtype=dtype)


def compiled(
    emit: Callable[[Any, Any], tuple[list[Any], Any]],
    inputs: list[rt.TensorSpec],
    outputs: list[rt.TensorSpec],
) -> Built:
    """Compile what `emit(block_builder, inputs)` builds."""
    from tvm import relax

    from edgec.compiler.c_library.table import table_bytes
    from edgec.compiler.lower import lower
    from edgec.compiler.options import CompileOptions
    from edgec.compiler.pack import plan_of
    from edgec.compiler.progress import Silent

    builder = relax.BlockBuilder()
    variables = [relax.Var(one.safe_name, relax.TensorType(one.shape, one.dtype)) for one in inputs]
    with builder.function("main", variables):
        with builder.dataflow():
            result = builder.emit_output(emit(builder, variables))
        builder.emit_func_output(result)
    target = detect()
    lowered = lower(builder.get(), target, CompileOptions(threads=1, tune="none"), Silent())
    config = rt.ArtifactConfig(
        name="tiny",
        target=target.name,
        arch=target.arch,
        required_features=tuple(sorted(target.features)),
        min_glibc=target.min_glibc,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        weights=tuple(lowered.weights),
        entry=lowered.entry,
        plan=plan_of(lowered),
        kernels={
            name: rt.KernelInfo(
                op=info.kind, calls=tuple(tuple(map(str, call)) for call in info.calls), flops=info.flops
            )
            for name, info in lowered.kernels.items()
        },
    )
    return Built(config, lowered.code, dict(lowered.weights), table_bytes(lowered.plan, config))


@pytest.fixture(scope="session")
def mlp() -> Built:
    """Four layers of `relu(x @ w)`; the output is called `y.0`."""
    pytest.importorskip("tvm", reason="the compiler is missing: pip install 'edgec[compiler]'")
    from tvm import relax

    random = np.random.default_rng(0)
    matrices = [random.standard_normal((SIZE, SIZE)).astype("float32") / 6 for _ in range(4)]

    def emit(builder: Any, inputs: Any) -> Any:
        value = inputs[0]
        for number, matrix in enumerate(matrices):
            product = builder.emit(relax.op.matmul(value, relax.const(matrix)), name_hint=f"n{2 * number}_p")
            value = builder.emit(relax.op.nn.relu(product), name_hint=f"n{2 * number + 1}_r")
        return value

    return compiled(emit, [spec("x", (1, SIZE))], [spec("y.0", (1, SIZE))])


@pytest.fixture(scope="session")
def reference(mlp: Built) -> Callable[[Any], Any]:
    """What the MLP computes, in numpy. (The compiler may store weights transposed or blocked: not read
    here.)
    """
    random = np.random.default_rng(0)
    matrices = [random.standard_normal((SIZE, SIZE)).astype("float32") / 6 for _ in range(4)]

    def run(x: Any) -> Any:
        for matrix in matrices:
            x = np.maximum(x @ matrix, 0)
        return x

    return run


@pytest.fixture(scope="session")
def two_outputs() -> Built:
    """`a + b` and `a` handed through, for `a` of 2 MB and `b` a scalar of float32."""
    pytest.importorskip("tvm", reason="the compiler is missing: pip install 'edgec[compiler]'")
    from tvm import relax

    def emit(builder: Any, inputs: Any) -> Any:
        total = builder.emit(relax.op.add(inputs[0], inputs[1]))
        return relax.Tuple([total, inputs[0]])

    inputs = [spec("a", (1, 512, 1024)), spec("b", ())]
    return compiled(emit, inputs, [spec("sum", (1, 512, 1024)), spec("same", (1, 512, 1024))])


@pytest.fixture(scope="session")
def small_pair() -> Built:
    """`x + 1` and `relu(x)`, for `x` of 32 numbers: inputs and outputs so small that they are copied."""
    pytest.importorskip("tvm", reason="the compiler is missing: pip install 'edgec[compiler]'")
    from tvm import relax

    def emit(builder: Any, inputs: Any) -> Any:
        more = builder.emit(relax.op.add(inputs[0], relax.const(np.float32(1))))
        return relax.Tuple([more, builder.emit(relax.op.nn.relu(inputs[0]))])

    return compiled(emit, [spec("x", (1, SIZE))], [spec("more", (1, SIZE)), spec("positive", (1, SIZE))])


@pytest.fixture(scope="session")
def tiny(mlp: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MLP as an artifact."""
    return mlp.write(tmp_path_factory.mktemp("tiny") / "tiny.edge")


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[rt.Model]:
    """The MLP, loaded to run on one thread."""
    with rt.load(tiny, threads=1) as loaded:
        yield loaded
