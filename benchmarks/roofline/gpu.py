"""How close each layer on a GPU comes to the roof: its time beside those of its arithmetic and its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np

from edgec.benchmarks.roofline.shares import LayerShare
from edgec.runtime.execution.profiling import LayerRuns
from edgec.runtime.gpu.limits import Limits
from edgec.runtime.gpu.profile import HOST


def gpu_shares(layers: Sequence[LayerRuns], limits: Limits) -> tuple[LayerShare, ...]:
    """Shares of the roof. What runs on the host has copies, but no roof here.

    Bytes are counted once each, as if all came from the GPU's memory: those that are still in its cache may exceed it.
    """
    return tuple(_share(layer, limits) for layer in layers)


def _share(layer: LayerRuns, limits: Limits) -> LayerShare:
    took = [seconds or 1e-9 for seconds in layer.seconds]
    middle = median(took)
    on_tensor_cores = "tensor" in layer.schedule and limits.tensor_gflops
    highest = limits.tensor_gflops if on_tensor_cores else limits.fp32_gflops
    computing, moving = layer.flops / highest / 1e9, layer.bytes / limits.gbytes / 1e9
    quartiles = np.percentile([computing / seconds for seconds in took], (25, 75))
    counts = layer.flops and layer.schedule != HOST
    bound = "host" if layer.schedule == HOST else "compute" if computing >= moving else "memory"
    return LayerShare(
        gflops=layer.flops / middle / 1e9,
        gbytes=layer.bytes / middle / 1e9,
        peak_share=computing / middle if counts else None,
        peak_share_quartiles=(float(quartiles[0]), float(quartiles[1])) if counts else None,
        memory_share=0.0 if layer.schedule == HOST else moving / middle,
        bound=bound,
        runs=len(took),
        left_out=0,
        undisturbed=True,
    )
