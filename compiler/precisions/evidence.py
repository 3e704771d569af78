"""What was found about precisions, as JSON for the artifact's evidence."""

from __future__ import annotations

from typing import Any

from edgec.compiler.precisions.choice import Chosen
from edgec.compiler.precisions.variants import BF16, FP16, FP32, INT8
from edgec.compiler.quantise.calibrate import Calibrated


def to_json(chosen: Chosen, requested: str) -> dict[str, Any]:
    """What was found, for the artifact's evidence."""
    variants = chosen.variants
    found: dict[str, Any] = {
        "requested": requested,
        "chosen": chosen.variant.name,
        "timed": bool(variants.measured),
        "notes": list(chosen.notes),
        "narrow_error": chosen.narrow_error,
        "narrow_nodes": sorted(chosen.variant.narrow),
        "variants": [_variant(chosen, name) for name in variants.made],
    }
    if chosen.calibrated is not None:
        found["calibration"] = _calibration(chosen, chosen.calibrated)
        found["layers"] = _layers(chosen, chosen.calibrated)
    if chosen.judge is not None:
        bound = chosen.judge.bound
        found["judged"] = {
            "examples": len(chosen.judge.evaluator.data),
            "max_drop": bound.drop,
            "max_error": bound.error,
        }
    return found


def with_fewer_layers(found: dict[str, Any], refused: dict[str, Any], why: str) -> dict[str, Any]:
    """What was found at another attempt, after verification had refused what was chosen first."""
    layers = f"{refused['chosen']} in {len(refused['narrow_nodes'])} layers"
    note = f"{layers} failed verification, so fewer were taken: {why}"
    return found | {"notes": [*refused["notes"], note, *found["notes"]]}


def in_fp32_after_all(found: dict[str, Any], why: str) -> dict[str, Any]:
    """What was found, where the precision that was chosen failed verification and the artifact is in fp32.

    Args:
        why: what verification said.
    """
    note = f"{found['chosen']} was chosen and failed verification, so all is computed in fp32: {why}"
    none = {"chosen": FP32, "narrow_error": 0.0, "narrow_nodes": []}
    changed = found | none | {"notes": [*found["notes"], note]}
    if "layers" in found:
        changed["layers"] = [layer | {"precision": FP32} for layer in found["layers"]]
    return changed


def _variant(chosen: Chosen, name: str) -> dict[str, Any]:
    variant, measured = chosen.variants.made[name], chosen.variants.measured.get(name)
    found: dict[str, Any] = {
        "name": name,
        "code_bytes": variant.code_bytes,
        "weights_bytes": variant.weights_bytes,
        "layers_int8": len(variant.int8),
        "layers_bf16": len(variant.bf16),
        "layers_fp16": len(variant.fp16),
        "layers_weights": len(variant.weights),
    }
    if measured is not None:
        found |= {
            "median_ms": measured.median_ms,
            "min_ms": measured.min_ms,
            "resident_bytes": measured.resident_bytes,
        }
    if name in chosen.quality:
        found["quality"] = chosen.quality[name].to_json()
    return found


def _calibration(chosen: Chosen, calibrated: Calibrated) -> dict[str, Any]:
    bound = calibrated.bound
    return {
        "examples": calibrated.calibrated,
        "held_back": len(calibrated.evaluator.data),
        "recipe": calibrated.recipe.name,
        "tried": [[name, error] for name, error in calibrated.tried.items()],
        "max_drop": bound.drop,
        "max_error": bound.error,
    }


def _layers(chosen: Chosen, calibrated: Calibrated) -> list[dict[str, Any]]:
    labels = {layer.label for layer in calibrated.layers}
    times = {name: chosen.variants.layer_ms(name, labels) for name in chosen.variants.measured}
    alone = chosen.choice.alone if chosen.choice else {}
    found = []
    for layer in calibrated.layers:
        precision = INT8 if layer.position in chosen.variant.int8 else FP32
        precision = BF16 if layer.origin in chosen.variant.bf16 and precision == FP32 else precision
        precision = FP16 if layer.origin in chosen.variant.fp16 and precision == FP32 else precision
        one: dict[str, Any] = {"name": layer.name, "precision": precision}
        if layer.position in alone:
            one["sensitivity"] = alone[layer.position]
        ms = {name: by[layer.label] for name, by in times.items() if layer.label in by}
        found.append(one | ({"ms": ms} if ms else {}))
    return found
