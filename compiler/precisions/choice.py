"""The best precision of each layer: fast, within the bound, and never slower than fp32 unless the user insists."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import edgec.runtime as rt
from edgec.compiler.backends.interface import Backend
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.options import NARROW_SHARE, WEIGHT_BITS, CompileOptions
from edgec.compiler.precisions.narrow import ANY, Limit, choose_layers
from edgec.compiler.precisions.narrow import Choice as NarrowChoice
from edgec.compiler.precisions.samples import samples_of
from edgec.compiler.precisions.variants import BF16, FP16, FP32, INT8, MIXED, NARROW, Variant, Variants
from edgec.compiler.precisions.weights import LEAST, SHARE, SIZE, with_narrow_weights
from edgec.compiler.progress import Progress
from edgec.compiler.quantise.calibrate import Calibrated, Judge, calibrate, judge_of
from edgec.compiler.quantise.choose import Choice
from edgec.compiler.quantise.errors import BoundNotMet
from edgec.compiler.quantise.evaluate import Quality
from edgec.compiler.verify.extremes import Probe
from edgec.compiler.verify.inputs import Arrays

# Times as many products as in fp32, by the core's facts: less is lost to Winograd's algorithm in fp32, and to casts.
PAYS = 1.25
FASTER = 0.98  # of the time of fp32: another precision has to gain at least that much
NEXT = 0.99  # of the error of narrow weights that lose too much: what the next, fewer ones may have
SHOWN = 5  # layers that a note names
# Where layers turn out too coarse as compiled, others are chosen that cost this share of their error, so many times.
FEWER, ATTEMPTS = 0.25, 2


def fewer_than(error: float, nodes: Collection[int]) -> Limit:
    """What to choose within, after narrow layers of this error turned out to be too coarse."""
    return Limit(FEWER * error, frozenset(nodes))


@dataclass(frozen=True)
class Chosen:
    """The variant that becomes the artifact, and all that was found on the way.

    Attributes:
        variant: the best.
        variants: all that were compiled, with their measurements.
        quality: of each variant on data held back, by name.
        calibrated: the calibration; None without data.
        choice: the layers that can be in 8 bits; None if there are none.
        judge: by which narrow weights were accepted; None without data.
        notes: what the user should know.
        narrow_error: of the model with the chosen layers in bf16 or fp16, as measured when they were chosen.
    """

    variant: Variant
    variants: Variants = field(repr=False)
    quality: Mapping[str, Quality] = field(default_factory=dict)
    calibrated: Calibrated | None = None
    choice: Choice | None = None
    judge: Judge | None = None
    notes: tuple[str, ...] = ()
    narrow_error: float = 0.0


def choose(
    source: SourceModel,
    backend: Backend,
    options: CompileOptions,
    card: rt.ModelCard | None,
    inputs: Arrays,
    variants: Variants,
    progress: Progress,
    limit: Limit = ANY,
) -> Chosen:
    """Compile the model in the precisions that the options allow, and choose.

    Args:
        source: the prepared float model.
        backend: for the target.
        options: precision, budgets, calibration.
        card: describes preprocessing and result.
        inputs: to measure time and the error of bfloat16 on.
        variants: compiles and measures.
        progress: told about the stages.
        limit: of the layers in bf16 or fp16, where less than the budget allows is wanted.

    Raises:
        CalibrationError: the calibration data do not fit.
        BoundNotMet: `int8` was asked for, and loses more than is accepted.
    """
    return _Chooser(source, backend, options, card, inputs, variants, progress, limit).choose()


@dataclass
class _Chooser:
    source: SourceModel
    backend: Backend
    options: CompileOptions
    card: rt.ModelCard | None
    inputs: Arrays
    variants: Variants
    progress: Progress
    limit: Limit = ANY
    notes: list[str] = field(default_factory=list)
    _samples: dict[bool, list[Probe]] = field(default_factory=dict)

    def samples(self, name: str) -> list[Probe]:
        """What the outputs of a variant are compared on."""
        half = bool(self.variants.made[name].fp16)
        if half not in self._samples:
            self._samples[half] = samples_of(self.source, self.inputs, half=half)
        return self._samples[half]

    @property
    def timed(self) -> bool:
        """Whether the target's code can be timed on this machine."""
        return self.backend.can_time and self.backend.target.timed_on is None

    def choose(self) -> Chosen:
        if self.options.precision in WEIGHT_BITS:
            return self._weights()
        calibrated = self._calibrated()
        if self.options.precision == BF16:
            return self._bf16()
        self.variants.add(FP32, self.source, "fp32")
        if calibrated is None:
            return self._floating({name: self._narrow_layers(name, self.limit) for name in (FP16, BF16)})
        return self._integer(calibrated, self._narrow_layers(BF16, self.limit))

    def _calibrated(self) -> Calibrated | None:
        calibration = self.options.calibration
        if calibration is None:
            return None
        return calibrate(self.source, calibration, self.backend.target, self.card, self.progress)

    def _bf16(self) -> Chosen:
        """What the user asked for, with a word where it does not pay."""
        variant = self.variants.add(BF16, self.source, "bf16")
        gain = self.backend.gain(NARROW[BF16])
        if not self.timed and gain < PAYS:
            self.notes.append(
                f"{self.backend.target.name} multiplies {gain:.3g} times as many numbers in bf16 as in fp32, and 3x3 "
                "convolutions in fp32 need fewer: bf16 may be slower than fp32 there; --precision auto leaves it out"
            )
        if self.timed:
            self.variants.add(FP32, self.source, "fp32")
            self.variants.race(self.inputs)
            self._note_slower(BF16)
        return Chosen(variant, self.variants, notes=tuple(self.notes))

    def _weights(self) -> Chosen:
        """Large products with weights of few bits, as many as the error budget allows, beside fp32."""
        name, budget = self.options.precision, self.options.error_budget
        bits, calibration = WEIGHT_BITS[name], self.options.calibration
        judge = None if calibration is None else judge_of(self.source, calibration, self.card)
        source, choice = with_narrow_weights(self.source, self.inputs, budget, bits)
        quality = dict[str, Quality]()
        while judge is not None and choice.nodes:
            quality[name] = judge.evaluator.of(source)
            if judge.bound.holds(quality[name]):
                break
            self.progress.note(f"with {len(choice.nodes)} products, {judge.bound.told(quality[name])}: fewer")
            less = NEXT * choice.error / SHARE
            source, choice = with_narrow_weights(self.source, self.inputs, less, bits)
        told = f", with an error of {choice.error:.2g} measured" if choice.nodes else ""
        if judge is not None and choice.nodes:
            told = f", with {judge.bound.told(quality[name])}"
        self.progress.note(
            f"{len(choice.nodes)} of {choice.layers} large products have weights of {bits} bits{told}"
        )
        if not choice.layers:
            self.notes.append(
                f"{name} changes nothing: no matrix product has {LEAST} constant weights or more, in whole blocks of "
                f"{SIZE} (convolutions are not narrowed; --precision int8 is for them)"
            )
        elif not choice.nodes and quality:
            assert judge is not None
            self.notes.append(
                f"{name} changes nothing: the best products alone have {judge.bound.told(quality.pop(name))}; accept "
                "more (--max-drop, --max-error)"
            )
        elif not choice.nodes:
            least = min(choice.alone.values())
            self.notes.append(
                f"{name} changes nothing: the best product alone costs an error of {least:.2g}, and {SHARE:.0%} of "
                f"the budget of {budget:.2g} is for weights: accept more (--error-budget)"
            )
        variant = self.variants.add(name, source, "fp32", weights=choice.nodes)
        self.variants.add(FP32, self.source, "fp32")
        if self.timed:
            self.variants.race(self.inputs)
            self._note_slower(name)
            if judge is not None and choice.nodes:
                quality[name] = self.variants.quality(name, judge.evaluator)
        return Chosen(variant, self.variants, quality, judge=judge, notes=tuple(self.notes))

    def _narrow_layers(self, name: str, limit: Limit) -> NarrowChoice:
        """The layers that may be computed in a precision; none where the target lacks it, or it cannot pay."""
        target, gain = self.backend.target.name, self.backend.gain(NARROW[name])
        if gain == 0.0:
            if self.options.precision == "auto" and name == BF16:
                self.progress.note(f"{target} has no bfloat16 dot products: no layer is computed in bf16")
            return NarrowChoice()
        if not self.timed and gain < PAYS:
            self.progress.note(
                f"{target} multiplies {gain:.3g} times as many numbers in {name} as in fp32: no layer is in {name}"
            )
            return NarrowChoice()
        return choose_layers(self.source, self.inputs, self.options.error_budget, NARROW[name], limit)

    def _floating(self, choices: dict[str, NarrowChoice]) -> Chosen:
        """The fastest of fp32, fp16 and bf16, layer by layer."""
        variants = self.variants
        narrow = {name: choice for name, choice in choices.items() if choice.nodes}
        if not self.timed and narrow:
            # More products in a cycle first, then the smaller error.
            best = min(narrow, key=lambda name: (-self.backend.gain(NARROW[name]), narrow[name].error))
            narrow = {best: narrow[best]}
        for name, choice in narrow.items():
            variants.add(name, self.source, "auto", **{name: choice.nodes})
        if narrow and self.timed:
            narrow = self._kept(narrow)
            choices |= narrow
            variants.race(self.inputs)
            self._mix(narrow)
            best = self._fastest([FP32, *self._accurate(narrow)])
        elif not self.timed:
            best = next(iter(narrow), FP32)
        else:
            best = FP32
        chosen = variants.made[best]
        for name, choice in choices.items():
            nodes = chosen.fp16 if name == FP16 else chosen.bf16
            if choice.layers:
                self.progress.note(
                    f"{len(nodes)} of {choice.layers} layers in {name}{self._why(name, choice, best)}"
                )
        error = max((choice.error for choice in narrow.values()), default=0.0) if best != FP32 else 0.0
        return Chosen(chosen, variants, notes=tuple(self.notes), narrow_error=error)

    def _why(self, name: str, choice: NarrowChoice, best: str) -> str:
        """What a note adds to how many layers are in a precision, where `best` is the variant that was chosen."""
        if best != FP32:
            return f", with an error of {choice.error:.2g} measured"
        measured = self.variants.measured
        if choice.nodes and name in measured:
            times = f"{measured[name].block_ms:.3g} beside {measured[FP32].block_ms:.3g} ms"
            return f": in {len(choice.nodes)} it is not faster than fp32, {times}"
        if choice.alone and not choice.nodes:
            least, share = min(choice.alone.values()), NARROW_SHARE[NARROW[name].label]
            return (
                f": each costs an error of {least:.2g} or more, and {share:.0%} of the budget of "
                f"{self.options.error_budget:.2g} is for it; accept more (--error-budget)"
            )
        return ""

    def _kept(self, narrow: Mapping[str, NarrowChoice]) -> dict[str, NarrowChoice]:
        """Those of the variants that keep the error budget as compiled, with fewer layers where that needs it."""
        kept = {}
        for name, choice in narrow.items():
            for attempt in range(ATTEMPTS + 1):
                error = self.variants.error(name, self.samples(name))
                if error <= self.options.error_budget:
                    kept[name] = choice
                    break
                fewer = self._narrow_layers(name, fewer_than(choice.error, self.variants.made[name].narrow))
                if attempt == ATTEMPTS or not fewer.nodes or fewer.nodes == choice.nodes:
                    self.progress.note(f"{name} is left out: it is off by {error:.2g} as compiled")
                    break
                told = f"{len(choice.nodes)} layers in {name} are off by {error:.2g} as compiled"
                self.progress.note(f"{told}: tried again with {len(fewer.nodes)}")
                choice = fewer
                self.variants.add(name, self.source, "auto", **{name: choice.nodes})
        return kept

    def _mix(self, narrow: Mapping[str, NarrowChoice]) -> None:
        """Measure one more variant: each layer in what it is fastest in, if that is not the same for all."""
        fastest: dict[int, tuple[float, str]] = {}
        for name, choice in narrow.items():
            gains = self._gained(choice.nodes, FP32, name)
            for node, ms in gains.items():
                fastest[node] = max(fastest.get(node, (0.0, FP32)), (ms, name))
        mixed = {name: frozenset(n for n, (_, best) in fastest.items() if best == name) for name in narrow}
        whole = any(
            mixed[name] == choice.nodes and not any(mixed[other] for other in narrow if other != name)
            for name, choice in narrow.items()
        )
        if any(mixed.values()) and not whole:
            self.variants.add(MIXED, self.source, "auto", **mixed)
            self.variants.race(self.inputs)

    def _accurate(self, narrow: Mapping[str, NarrowChoice]) -> list[str]:
        """The narrow variants whose outputs keep the error budget; a mix that does not is named."""
        if MIXED not in self.variants.made:
            return [*narrow]
        error = self.variants.error(MIXED, self.samples(MIXED))
        if error <= self.options.error_budget:
            return [*narrow, MIXED]
        self.progress.note(f"{MIXED} is left out: it is off by {error:.2g} as compiled")
        return [*narrow]

    def _integer(self, calibrated: Calibrated, bf16: NarrowChoice) -> Chosen:
        """The layers that gain in 8 bits and are accurate enough; the others in what is fastest for them."""
        variants, forced = self.variants, self.options.precision == "int8"
        everything = frozenset(layer.position for layer in calibrated.layers)
        variants.add(INT8, calibrated.model(everything), "int8", int8=everything)
        if bf16.nodes and not forced:
            self._add_bf16(bf16.nodes)
        gains = self._gains(calibrated)
        skipped = [] if forced or gains is None else [at for at, ms in gains.items() if ms <= 0]
        positive = {at: max(ms, 1e-6) for at, ms in gains.items()} if gains else None
        try:
            choice = calibrated.choose(self.progress, positive, skipped)
        except BoundNotMet as error:
            if forced:
                raise
            self.notes.append(str(error).splitlines()[0])
            choice = None
        quality = {INT8: choice.all_in_int8} if choice else {}
        rest = self._bf16_beside(calibrated, choice, bf16)
        if choice is not None and choice.positions and (choice.positions != everything or rest):
            variants.add(MIXED, calibrated.model(choice.positions), "int8", rest, choice.positions)
            self._within(calibrated, choice, rest, quality)
        return self._settle(calibrated, choice, quality)

    def _gains(self, calibrated: Calibrated) -> dict[int, float] | None:
        """What each layer saves in 8 bits, in milliseconds, by position; None where nothing can be timed."""
        if not self.timed:
            return None
        self.variants.race(self.inputs)
        labels = {layer.label for layer in calibrated.layers}
        wide, narrow = self.variants.layer_ms(FP32, labels), self.variants.layer_ms(INT8, labels)
        return {
            layer.position: wide.get(layer.label, 0.0) - narrow.get(layer.label, 0.0)
            for layer in calibrated.layers
        }

    def _bf16_beside(
        self, calibrated: Calibrated, choice: Choice | None, bf16: NarrowChoice
    ) -> frozenset[int]:
        """The layers that are not in 8 bits, may be in bfloat16, and gain by it."""
        if choice is None:
            return frozenset()
        left = {layer.origin for layer in calibrated.layers if layer.position not in choice.positions}
        allowed = bf16.nodes & left
        if not allowed or not self.timed:
            return frozenset(allowed)
        if BF16 not in self.variants.made:
            if not self._add_bf16(allowed):
                return frozenset()
            self.variants.race(self.inputs)
        return self._faster(allowed, FP32, BF16)

    def _add_bf16(self, nodes: Collection[int]) -> bool:
        """Add the model with these nodes in bfloat16, unless none of them has such a kernel: it would be fp32 again."""
        made = self.variants.add(BF16, self.source, "auto", nodes)
        if not made.bf16:
            del self.variants.made[BF16]
        return bool(made.bf16)

    def _within(
        self, calibrated: Calibrated, choice: Choice, rest: frozenset[int], quality: dict[str, Quality]
    ) -> None:
        """Measure the mixed variant itself; bfloat16 is taken out again if the bound does not hold with it."""
        if not self.timed:
            quality[MIXED] = choice.quality
            return
        quality[MIXED] = self.variants.quality(MIXED, calibrated.evaluator)
        if rest and not calibrated.bound.holds(quality[MIXED]):
            self.variants.add(MIXED, calibrated.model(choice.positions), "int8", (), choice.positions)
            quality[MIXED] = self.variants.quality(MIXED, calibrated.evaluator)

    def _settle(self, calibrated: Calibrated, choice: Choice | None, quality: dict[str, Quality]) -> Chosen:
        """The fastest variant within the bound; with `int8` asked for, the one that has the most of it."""
        variants, bound = self.variants, calibrated.bound
        if self.timed:
            for name in variants.made.keys() - {FP32, *quality}:
                quality[name] = variants.quality(name, calibrated.evaluator)
            quality[INT8] = variants.quality(INT8, calibrated.evaluator)
            variants.race(self.inputs)
        fitting = [n for n in variants.made if n == FP32 or (n in quality and bound.holds(quality[n]))]
        integer = [n for n in (MIXED, INT8) if n in fitting]
        if self.options.precision == "int8":
            if not integer:
                raise BoundNotMet(
                    "the compiled model loses more than its simulation: "
                    f"{bound.told(quality.get(MIXED, quality[INT8]))}.\nAccept more (--max-drop, --max-error), or "
                    "give more calibration data"
                )
            best = INT8 if INT8 in integer and MIXED not in integer else integer[0]
            if self.timed:
                self._note_slower(best)
        else:
            best = self._fastest(fitting) if self.timed else (integer or [FP32])[0]
        chosen = variants.made[best]
        told = bound.told(quality[best]) if best in quality else "no loss"
        self.progress.note(f"{len(chosen.int8)} of {len(calibrated.layers)} layers in int8, with {told}")
        return Chosen(chosen, variants, quality, calibrated, choice, notes=tuple(self.notes))

    def _faster(self, nodes: frozenset[int], before: str, after: str) -> frozenset[int]:
        """Those of some source nodes whose kernels take less time in the variant `after`."""
        return frozenset(node for node, ms in self._gained(nodes, before, after).items() if ms > 0)

    def _gained(self, nodes: frozenset[int], before: str, after: str) -> dict[int, float]:
        """By how many milliseconds the kernels of source nodes are faster in the variant `after`."""
        labels = {node: self.source.nodes[node].label for node in nodes if node < len(self.source.nodes)}
        slow = self.variants.layer_ms(before, set(labels.values()))
        fast = self.variants.layer_ms(after, set(labels.values()))
        return {node: slow.get(label, 0.0) - fast.get(label, 0.0) for node, label in labels.items()}

    def _fastest(self, names: Sequence[str] | None = None) -> str:
        """The fastest variant; fp32 unless another gains."""
        measured = self.variants.measured
        if FP32 not in measured:
            return FP32
        times = {name: measured[name].block_ms for name in names or measured}
        best = min(times, key=lambda name: times[name])
        return best if times[best] <= FASTER * times[FP32] else FP32

    def _note_slower(self, name: str) -> None:
        """Say so, and why, where a variant is slower than fp32."""
        ours, wide = self.variants.measured[name].block_ms, self.variants.measured[FP32].block_ms
        if ours * FASTER <= wide:
            return
        labels = {node.label for node in self.source.nodes}
        narrow, before = self.variants.layer_ms(name, labels), self.variants.layer_ms(FP32, labels)
        lost = sorted(((narrow[at] - before.get(at, 0.0), at) for at in narrow), reverse=True)
        worst = [
            f"{at} ({before.get(at, 0.0):.3g} to {narrow[at]:.3g} ms)" for ms, at in lost[:SHOWN] if ms > 0
        ]
        why = f": most of it in {', '.join(worst)}" if worst else ""
        self.notes.append(
            f"{name} is slower than fp32 here, {ours:.3g} beside {wide:.3g} ms{why}; --precision auto takes the faster"
        )
