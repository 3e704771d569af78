"""What the OpenCL suite has run: models, kernels and the largest error of each template, printed at the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from edgec.compiler.pipeline import CompileResult

_NAMES = {"attention": "attention", "tensor": "products in tiles", "a": "windows"}
OTHER = "TVM's rules, reductions and maps"


@dataclass
class Tally:
    """Counts of one run of the suite.

    Attributes:
        models: that were compiled, run and compared with ONNX Runtime.
        kernels: of each template.
        errors: the largest error of a model that has a kernel of the template, of its output's largest value.
    """

    models: int = 0
    kernels: Counter[str] = field(default_factory=Counter)
    errors: dict[str, float] = field(default_factory=dict)

    def add(self, result: CompileResult) -> None:
        """Count a verified model."""
        self.models += 1
        error = max(float(one["max_rel"]) for one in result.evidence["outputs"])
        for kernel in result.config.kernels.values():
            template = _NAMES.get(kernel.schedule.split(" ")[0], OTHER)
            self.kernels[template] += 1
            self.errors[template] = max(self.errors.get(template, 0.0), error)

    def lines(self) -> list[str]:
        """A table in Markdown."""
        rows = [
            f"| {name} | {count} | {self.errors[name]:.1e} |" for name, count in sorted(self.kernels.items())
        ]
        return [
            f"{self.models} models as OpenCL beside ONNX Runtime",
            "| template | kernels | largest error of a model with one, of the largest value |",
            "|---|---:|---:|",
            *rows,
        ]


TALLY = Tally()
