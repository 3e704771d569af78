"""The certificate of an artifact: how fast it is beside ONNX Runtime and beside what the machine can do, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgec.compiler.errors import NotFaster
from edgec.compiler.verify.timing import busy, ratio
from edgec.runtime.execution.profiling import BETWEEN

if TYPE_CHECKING:  # a certificate is read without the compiler's packages
    from edgec.compiler.verify.verification import Verification
    from edgec.targets.machine_rates import MachineRates

FALLBACK = "edgec.fallback."  # how the runtime names the parts that ONNX Runtime runs
NAMED = 5  # layers at fault that are told
MATTERS = 0.02  # of the model's time: what a layer has to lose to be named
POOR = 0.5  # of what the machine could do
WINOGRAD = re.compile(r"winograd(\d+) ")  # how such schedules begin
FASTER, SLOWER, UNMEASURED = "faster", "slower", "not measured"


@dataclass(frozen=True)
class Layer:
    """A layer in the certificate.

    Attributes:
        nodes: the source's nodes.
        choice: the schedule that was chosen.
        ms: what it takes.
        floor_ms: what it would take if the machine did nothing but what bounds it; None without measured rates.
        bound: `arithmetic`, or the level of memory that its bytes come from.
        onnxruntime_ms: what ONNX Runtime takes for the same nodes; None where it cannot be told.
    """

    nodes: tuple[str, ...]
    op: str  # the operator, or the kernel's name where it is none of the source
    choice: str
    ms: float
    floor_ms: float | None = None
    bound: str = ""
    onnxruntime_ms: float | None = None

    @property
    def lost_ms(self) -> float:
        """How much longer than ONNX Runtime it takes; where that is unknown, than it would at half the limit."""
        if self.onnxruntime_ms is not None:
            return self.ms - self.onnxruntime_ms
        return self.ms - self.floor_ms / POOR if self.floor_ms is not None else 0.0

    @property
    def why(self) -> str:
        """Why it is slow, in words."""
        if self.choice == FALLBACK:
            return "left to ONNX Runtime, as it has no compiled form"
        reasons = [] if self.choice != "generic" else ["no template makes it, so it is scheduled generically"]
        if self.floor_ms and self.floor_ms < POOR * self.ms:
            limit = "arithmetic" if self.bound == "arithmetic" else f"reading from {self.bound}"
            reasons.append(
                f"reaches {self.floor_ms / self.ms:.0%} of what the machine can do, bound by {limit}"
            )
        near = "near what the machine can do with the target's instructions"
        return "; ".join(reasons) or f"{near}: ONNX Runtime does less work for it, or has wider ones"


@dataclass(frozen=True)
class Certificate:
    """See the module.

    Attributes:
        verdict: `faster` or `slower` than ONNX Runtime by the medians (by the fastest runs if disturbed), or
            `not measured`.
        reason: why it was not measured.
        ratio, low, high: how many times as fast as ONNX Runtime: of all runs; lowest and highest of the rounds.
        rounds: rounds of blocks.
        floor_ms: what all layers would take at the machine's limits.
        fallback_share: part of the time that ONNX Runtime takes inside the artifact, 0 to 1.
        at_fault: nodes of the layers that lose most, what they lose in milliseconds, and why.
        waited: where other programs disturbed every round, the part of the time for which a thread had no core. Times
            and ratio are then those of the fastest runs.
    """

    verdict: str
    reason: str = ""
    machine: str = ""
    threads: int = 0
    ratio: float = 0.0
    low: float = 0.0
    high: float = 0.0
    rounds: int = 0
    ms: float = 0.0
    onnxruntime_ms: float = 0.0
    floor_ms: float | None = None
    fallback_share: float = 0.0
    rates: Mapping[str, Any] | None = None
    layers: tuple[Layer, ...] = ()
    at_fault: tuple[Mapping[str, Any], ...] = ()
    waited: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-serialisable values."""
        return asdict(self)


def certify(
    proof: Verification | None, machine: str, rates: MachineRates | None, unmeasured: str = ""
) -> Certificate:
    """The certificate of a verified artifact.

    Args:
        proof: latencies and layers; None without verification.
        machine: the processor on which it ran.
        rates: the processor's limits; None where they were not measured.
        unmeasured: why there can be no measurement, such as a target of another architecture.
    """
    ours, theirs = (proof.latency.get(side) if proof else None for side in ("edgec", "onnxruntime"))
    if proof is None or ours is None or theirs is None:
        reason = unmeasured or "ONNX Runtime does not run the model, so there is nothing to compare with"
        return Certificate(UNMEASURED, reason)
    waited = max(float(side.get("waited", 0.0)) for side in (ours, theirs))
    time = "min_ms" if waited else "median_ms"
    found = ratio(ours, theirs, time)
    layers = layers_of(proof.layers, rates, proof.threads, proof.reference_layers)
    total = sum(layer.ms for layer in layers) or 1.0
    floors = [layer.floor_ms for layer in layers if layer.floor_ms is not None]
    return Certificate(
        FASTER if found.middle >= 1 else SLOWER,
        machine=machine,
        threads=proof.threads,
        ratio=round(found.middle, 3),
        low=round(found.low, 3),
        high=round(found.high, 3),
        rounds=len(ours.get("blocks_ms", ())),
        ms=ours[time],
        onnxruntime_ms=theirs[time],
        floor_ms=round(sum(floors), 4) if floors else None,
        fallback_share=round(sum(one.ms for one in layers if one.choice == FALLBACK) / total, 4),
        rates=rates.to_json() if rates else None,
        layers=tuple(layers),
        at_fault=_at_fault(layers, total) if found.middle < 1 else (),
        waited=waited,
    )


def layers_of(
    profile: Sequence[Mapping[str, Any]],
    rates: MachineRates | None,
    threads: int,
    theirs: Mapping[str, float] | None = None,
) -> list[Layer]:
    """The layers of a profile (`LayerTime`s as JSON), each with the machine's limit and ONNX Runtime's time.

    Args:
        rates: what the machine can do; None leaves the limits out.
        theirs: milliseconds that ONNX Runtime takes, by node of the source.
    """
    held, made = sum(int(layer.get("bytes", 0)) for layer in profile), []
    for layer in profile:
        nodes = tuple(layer["nodes"])
        size, flops = int(layer.get("bytes", 0)), _multiplied(layer)
        floor, bound = (None, "")
        fallback = str(layer["kernel"]).startswith(FALLBACK)
        if rates is not None and not fallback:
            # between two uses of its arrays all others pass: they are as far away as all together are large
            seconds, bound = rates.floor_s(flops, size, held, threads, _kind(layer))
            floor = round(seconds * 1e3, 5)
        known = [theirs[node] for node in nodes if node in theirs] if theirs else []
        choice = FALLBACK if fallback else str(layer.get("schedule", ""))
        ms = round(float(layer["ms"]), 5)
        made.append(
            Layer(
                nodes,
                str(layer["op"] or layer["kernel"]),
                choice,
                ms,
                floor,
                bound,
                round(sum(known), 5) if known else None,
            )
        )
    return made


def _multiplied(layer: Mapping[str, Any]) -> int:
    """Operations that a layer has to compute: Winograd's tiles of m×m results take (m + 2)² products, not 9 m²."""
    flops, found = int(layer.get("flops", 0)), WINOGRAD.match(str(layer.get("schedule", "")))
    if found is None:
        return flops
    m = int(found[1])
    return round(flops * (m + 2) ** 2 / (9 * m**2))


def _kind(layer: Mapping[str, Any]) -> str:
    """The data type of a layer's products: schedules end with the label of operands other than fp32."""
    last = str(layer.get("schedule", "")).rpartition(" ")[2]
    return last if last in ("bf16", "fp16", "int8") else "fp32"


def _at_fault(layers: Sequence[Layer], total: float) -> tuple[dict[str, Any], ...]:
    layers = [one for one in layers if one.nodes or one.op != BETWEEN] or layers
    losing = sorted((one for one in layers if one.lost_ms > MATTERS * total), key=lambda one: -one.lost_ms)
    losing = losing or sorted(layers, key=lambda one: -one.ms)[:1]
    return tuple(
        {
            "nodes": list(one.nodes),
            "op": one.op,
            "ms": one.ms,
            "lost_ms": round(one.lost_ms, 4),
            "why": one.why,
        }
        for one in losing[:NAMED]
    )


def require_faster(certificate: Certificate) -> None:
    """Check that the result is at least as fast as ONNX Runtime.

    Raises:
        NotFaster: it is slower, or that was not measured.
    """
    if certificate.verdict == UNMEASURED:
        raise NotFaster(f"--require-faster needs a measurement, and there is none: {certificate.reason}")
    if certificate.verdict == SLOWER:
        faults = "; ".join(at_fault(one) for one in certificate.at_fault[:2])
        raise NotFaster(
            f"the compiled model takes {certificate.ms:.3g} ms and ONNX Runtime {certificate.onnxruntime_ms:.3g} ms "
            f"({certificate.ratio:.2f} times its speed), so no artifact was written. At fault: {faults}"
            + (f".\n{busy(certificate.waited)}: compile again when it is idle" if certificate.waited else "")
        )


def read_aloud(certificate: Mapping[str, Any]) -> list[str]:
    """A certificate, as the evidence holds it, in sentences."""
    if certificate["verdict"] == UNMEASURED:
        return [f"Speed was not measured: {certificate['reason']}."]
    c = certificate
    threads = f"{c['threads']} thread{'s' if c['threads'] != 1 else ''}"
    spread = f" (from {c['low']:.2f} to {c['high']:.2f} in {c['rounds']} rounds)" if c["rounds"] > 1 else ""
    waited = c.get("waited", 0.0)  # certificates of older artifacts lack it
    runs = "the fastest run" if waited else "a run"
    told = [
        f"On {c['machine']}, with {threads}, {runs} takes {c['ms']:.3g} ms and ONNX Runtime's "
        f"{c['onnxruntime_ms']:.3g} ms: {c['ratio']:.2f} times its speed{spread}."
    ]
    if waited:
        told.append(f"{busy(waited)}, so these times are rough: `edgec bench` measures again.")
    if c["floor_ms"]:
        told.append(
            f"At the machine's limits its layers would take {c['floor_ms']:.3g} ms: it reaches "
            f"{min(1.0, c['floor_ms'] / c['ms']):.0%} of what the machine can do."
        )
    if c["fallback_share"]:
        told.append(f"Parts that ONNX Runtime runs inside it take {c['fallback_share']:.0%} of the time.")
    if c["verdict"] == SLOWER:
        told.append("It is slower than ONNX Runtime. At fault:")
        told += [f"- {at_fault(one)}" for one in c["at_fault"]]
    return told


def at_fault(one: Mapping[str, Any]) -> str:
    """A layer at fault in one line."""
    nodes = one["nodes"]
    more = f" and {len(nodes) - 2} more" if len(nodes) > 2 else ""
    named = f"{', '.join(nodes[:2])}{more} ({one['op']})" if nodes else one["op"]
    return f"{named}: {one['ms']:.3g} ms, {max(0.0, one['lost_ms']):.2g} ms too many; {one['why']}"
