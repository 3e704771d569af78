"""The result of verifying an artifact."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from edgec.compiler.errors import VerificationFailed
from edgec.compiler.options import Precision
from edgec.compiler.verify.compare import OutputError
from edgec.compiler.verify.judge import Judgement

UNWRITTEN = ", so no artifact was written."  # ends the first line of a refusal
_REDUCE = "`edgec debug reduce` cuts the model to the part that differs"
_WAYS_OUT: dict[str, str] = {
    precision: f"--precision auto keeps the layers in fp32 for which {precision} is too coarse, --error-budget accepts "
    "more"
    for precision in ("tf32", "fp16", "bf16")
}


@dataclass(frozen=True)
class Verification:
    """What verifying found.

    Attributes:
        errors: one per output.
        budget: largest relative error that was accepted.
        where: `this machine`, or the emulator.
        latency: by side (`edgec`, `onnxruntime`), see `edgec.compiler.verify.timing.Latency`.
        layers: time per kernel, from the runtime's profile.
        reference_layers: milliseconds that ONNX Runtime takes, by node of the source; of no node under "".
        golden: outputs for the input that devices check with, see `edgec.runtime.artifact.golden`.
        steps: runs one after the other in which a model with states was compared; 0 for one without.
        extremes: what became of further inputs, see `edgec.compiler.verify.judge`.
    """

    errors: tuple[OutputError, ...]
    budget: float
    where: str
    reference: str
    threads: int
    latency: dict[str, dict[str, Any]] = field(default_factory=dict)
    layers: tuple[dict[str, Any], ...] = ()
    reference_layers: dict[str, float] = field(default_factory=dict)
    golden: dict[str, Any] | None = None
    steps: int = 0
    extremes: tuple[Judgement, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every output is within what is accepted, on extreme inputs as well, and has values to compare."""
        agreeing = all(error.ok and not error.undefined for error in self.errors)
        return agreeing and not any(judgement.failure for judgement in self.extremes)

    @property
    def undefined(self) -> bool:
        """Whether an output is NaN throughout, in the reference as well, so that nothing is shown about it."""
        return any(error.undefined for error in self.errors)

    @property
    def hollow(self) -> str:
        """Why the equality shows little, in words; empty if it shows something."""
        found = [error for error in self.errors if error.hollow]
        if not found:
            return ""
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return (
            f"the output {found[0].name!r}{more} {found[0].hollow}, in {self.reference} as well, so its equality "
            "shows little: give inputs of the model's real range with --verify-with FILE.npz"
        )

    def require(self, precision: Precision = "fp32") -> None:
        """Raise if an output exceeds what is accepted.

        Args:
            precision: that the model was compiled in, for the way out.

        Raises:
            VerificationFailed: naming the worst outputs, or those without a value to compare.
        """
        bad = [error for error in self.errors if not error.ok]
        told = [f"output {error.name!r}: {error.verdict}" for error in bad[:3]]
        extreme = next((judgement for judgement in self.extremes if judgement.failure), None)
        if not bad and extreme is not None:
            told = [f"on inputs with {extreme.inputs}, {extreme.failure}"]
        if told:
            raise VerificationFailed(
                f"the compiled model does not match {self.reference} ({'; '.join(told)}; budget {self.budget:g})"
                f"{UNWRITTEN}\n{_WAYS_OUT.get(precision, _REDUCE)}; "
                "--no-verify writes an artifact that is marked as unverified"
            )
        hollow = [repr(error.name) for error in self.errors if error.undefined]
        if hollow:
            raise VerificationFailed(
                f"every value of the output {', '.join(hollow[:3])} is NaN on the inputs to verify with, in "
                f"{self.reference} as well, which proves nothing, so no artifact was written. Give inputs of the "
                "model's real range with --verify-with FILE.npz; --no-verify writes one that says it is unproven"
            )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        return asdict(self) | {"ok": self.ok, "hollow": self.hollow}
