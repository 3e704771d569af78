"""From a Relax module to machine code: graph passes, layouts, kernels, tuning, build and link."""

from __future__ import annotations

from edgec.compiler.lowered import KernelInfo, Lowered, TuningSummary

__all__ = ["KernelInfo", "Lowered", "TuningSummary"]
