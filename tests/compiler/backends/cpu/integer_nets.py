"""Quantised networks as the importer makes them, beside the same in exact numpy arithmetic."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from edgec.compiler.backends.cpu.runtime_libraries import runtime_libraries
from edgec.compiler.emulation.emulator import find_emulator
from edgec.compiler.lower import lower
from edgec.compiler.lowered import Lowered
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Silent
from edgec.targets import Target

Array = np.ndarray[Any, Any]


class Net:
    """A network that is built and computed step by step; `values` holds what each step computes of the input."""

    def __init__(self, x: Array, seed: int = 0) -> None:
        self.x, self.rng = x, np.random.default_rng(seed)
        self.builder = relax.BlockBuilder()
        self.input = relax.Var("x", relax.TensorType(x.shape, str(x.dtype)))
        self.values: dict[Any, Array] = {self.input: x}
        self.module: tvm.IRModule | None = None
        self._function = self.builder.function("main", [self.input])
        self._function.__enter__()
        self._block = self.builder.dataflow()
        self._block.__enter__()
        self._names = 0

    def emit(self, expr: Any, value: Array) -> Any:
        """Bind `expr`, which computes `value`."""
        var = self.builder.emit(expr, name_hint=f"n{self._names}_v")
        self._names += 1
        self.values[var] = value
        return var

    def weights(self, *shape: int, extreme: bool = False, small: bool = False) -> Array:
        """Of int8; the least and largest ones if `extreme`. No two `small` ones leave 16 bits in `pmaddubsw`."""
        least, largest = (-64, 64) if small else (-128, 127)
        values = [least, largest] if extreme else np.arange(least + 1, largest + 1)
        return self.rng.choice(values, shape).astype(np.int8)

    def pad(self, x: Any, top: int, left: int, bottom: int, right: int, value: int) -> Any:
        """Padding of images by `value`."""
        widths = ((0, 0), (0, 0), (top, bottom), (left, right))
        flat = [w for pair in widths for w in pair]
        padded = np.pad(self.values[x], widths, constant_values=value)
        return self.emit(relax.op.nn.pad(x, flat, pad_value=float(value)), padded)

    def conv(self, x: Any, w: Array, stride: int = 1, groups: int = 1, dilation: int = 1) -> Any:
        """Sums of products in int32."""
        expr = relax.op.nn.conv2d(
            x,
            relax.const(w),
            strides=(stride, stride),
            dilation=(dilation, dilation),
            groups=groups,
            out_dtype="int32",
        )
        return self.emit(expr, exact_conv(self.values[x], w, stride, groups, dilation))

    def matmul(self, x: Any, w: Array) -> Any:
        """Sums of products with a constant matrix in int32."""
        value = self.values[x].astype(np.int64) @ w.astype(np.int64)
        return self.emit(relax.op.matmul(x, relax.const(w), out_dtype="int32"), value.astype(np.int32))

    def requantise(
        self,
        sums: Any,
        zero: int,
        dtype: str,
        spread: float = 80.0,
        bias: bool = True,
        limits: tuple[int, int] | None = None,
    ) -> Any:
        """The tail of a layer: bias, scale per channel, rounding, zero point, saturation."""
        value = self.values[sums]
        shape = (1, value.shape[1], 1, 1) if value.ndim == 4 else value.shape[-1:]
        if bias:
            b = self.rng.integers(-1000, 1000, shape).astype(np.int32)
            value = value + b
            sums = self.emit(relax.op.add(sums, relax.const(b)), value)
        scale = (spread / max(1.0, float(np.abs(value).std())) * self.rng.uniform(0.5, 2, shape)).astype(
            np.float32
        )
        real = self.emit(relax.op.astype(sums, "float32"), value.astype(np.float32))
        real = self.emit(relax.op.multiply(real, relax.const(scale)), self.values[real] * scale)
        return self.narrow(real, zero, dtype, limits)

    def narrow(self, real: Any, zero: int, dtype: str, limits: tuple[int, int] | None = None) -> Any:
        """Float to 8 bits: rounded half to even, moved by the zero point, saturated or between other limits."""
        least, most = limits or (np.iinfo(dtype).min, np.iinfo(dtype).max)
        real = self.emit(relax.op.round(real), np.round(self.values[real]))
        point = relax.const(np.float32(zero))
        real = self.emit(relax.op.add(real, point), self.values[real] + np.float32(zero))
        low, high = relax.const(np.float32(least)), relax.const(np.float32(most))
        real = self.emit(relax.op.maximum(real, low), np.maximum(self.values[real], least))
        real = self.emit(relax.op.minimum(real, high), np.minimum(self.values[real], most))
        return self.emit(relax.op.astype(real, dtype), self.values[real].astype(dtype))

    def widen(self, x: Any, zero: int, scale: float) -> Any:
        """8 bits to float."""
        value = self.values[x].astype(np.float32)
        real = self.emit(relax.op.astype(x, "float32"), value)
        value = value - np.float32(zero)
        real = self.emit(relax.op.subtract(real, relax.const(np.float32(zero))), value)
        return self.emit(relax.op.multiply(real, relax.const(np.float32(scale))), value * np.float32(scale))

    def add(self, a: Any, b: Any) -> Any:
        """The sum of two tensors."""
        return self.emit(relax.op.add(a, b), self.values[a] + self.values[b])

    def finish(self, result: Any) -> tvm.IRModule:
        """The module whose result is `result`."""
        self.wanted = self.values[result]
        out = self.builder.emit_output(result)
        self._block.__exit__(None, None, None)
        self.builder.emit_func_output(out)
        self._function.__exit__(None, None, None)
        self.module = self.builder.finalize()
        return self.module


def exact_conv(x: Array, w: Array, stride: int = 1, groups: int = 1, dilation: int = 1) -> Array:
    """A convolution without padding, exact, wrapped to int32."""
    kh, kw = w.shape[2:]
    span = ((kh - 1) * dilation + 1, (kw - 1) * dilation + 1)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), span, axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride, ::dilation, ::dilation]
    parts = []
    for g, part in enumerate(np.split(w.astype(np.float64), groups)):
        channels = w.shape[1]
        own = windows[:, g * channels : (g + 1) * channels]
        parts.append(np.einsum("nchwij,ocij->nohw", own, part, optimize=True))
    return np.concatenate(parts, axis=1).astype(np.int64).astype(np.int32)


def compiled(module: tvm.IRModule, target: Target, threads: int = 1, tune: str = "none") -> Lowered:
    """The machine code of a network."""
    return lower(module, target, CompileOptions(threads=threads, tune=tune), Silent())  # type: ignore[arg-type]


def run(lowered: Lowered, folder: Path, inputs: Sequence[Array]) -> Array:
    """What the code computes in this process."""
    library = folder / f"{uuid.uuid4().hex}.so"  # one that is loaded must not change
    library.write_bytes(lowered.code)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    arguments = [*inputs, *lowered.weights.values()]
    made: Array = machine["main"](*[tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments]).numpy()
    return made


_SCRIPT = """
import ctypes, sys
import numpy as np, tvm_ffi
folder, count, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
runtime = ctypes.CDLL(folder + "/libtvm_runtime.so", ctypes.RTLD_GLOBAL)
machine = tvm_ffi.load_module(folder + "/net.so")["vm_load_executable"]()
machine["vm_initialization"](1, 0, 2)
tvm_ffi.get_global_func("runtime.config_threadpool")(1, threads)
arrays = [np.load(f"{folder}/{i}.npy") for i in range(count)]
made = machine["main"](*[tvm_ffi.from_dlpack(a) for a in arrays])
np.save(folder + "/made.npy", np.from_dlpack(made))
del made, machine
"""


def run_elsewhere(
    lowered: Lowered, target: Target, folder: Path, inputs: Sequence[Array], threads: int
) -> Array:
    """What the code computes in an emulator of the target's processor."""
    emulator = find_emulator(target)
    assert emulator is not None
    folder.mkdir()
    (folder / "net.so").write_bytes(lowered.code)
    for name, content in runtime_libraries(target.arch).items():
        (folder / name).write_bytes(content)
    arrays = [*inputs, *lowered.weights.values()]
    for number, array in enumerate(arrays):
        np.save(folder / f"{number}.npy", np.ascontiguousarray(array))
    (folder / "run.py").write_text(_SCRIPT)
    words = [str(folder / "run.py"), str(folder), str(len(arrays)), str(threads)]
    command, environment = emulator.command(words)
    environment["LD_LIBRARY_PATH"] = f"{environment.get('LD_LIBRARY_PATH', '')}:{folder}"
    subprocess.run(command, env=environment, check=True, timeout=200)
    made: Array = np.load(folder / "made.npy")
    return made
