"""The metadata of a capture."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from edgec.protocol.captures import MAX_PREDICTIONS, CaptureMeta, CaptureReason, Prediction, SecondOpinion
from edgec.protocol.codec import decode
from edgec.protocol.errors import ProtocolError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CAT = Prediction(label="cat", score=0.5, box=(1, 2, 3, 4))


def meta(**changes: object) -> CaptureMeta:
    fields = {
        "id": "gate-1", "device": "cam-7", "stream": "gate", "time": NOW, "reason": CaptureReason.RANDOM,
        "predictions": [CAT], "width": 320, "height": 240,
    }  # fmt: skip
    return CaptureMeta.model_validate(fields | changes)


def test_the_json_names_its_schema_and_omits_what_is_absent() -> None:
    table = json.loads(meta().encode())
    assert table["schema"] == 1
    assert table["reason"] == "random"
    assert "other" not in table
    assert decode(CaptureMeta, json.dumps(table)) == meta()


def test_a_second_opinion_travels_along() -> None:
    asked = meta(
        other=SecondOpinion(model="m", version="2", predictions=[CAT]), reason=CaptureReason.DISAGREEMENT
    )
    assert decode(CaptureMeta, asked.encode()) == asked


def test_fields_of_later_versions_are_ignored() -> None:
    table = json.loads(meta().encode())
    assert decode(CaptureMeta, json.dumps(table | {"later": True})) == meta()


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"reason": "curious"}, {"device": "a/b"}, {"time": "2026-01-01T00:00:00"},
              {"predictions": [{"label": "cat", "score": 0.5}] * (MAX_PREDICTIONS + 1)}],
)  # fmt: skip
def test_the_error_names_the_field(wrong: dict[str, object]) -> None:
    table = json.loads(meta().encode())
    with pytest.raises(ProtocolError, match=f"CaptureMeta: {next(iter(wrong))}"):
        decode(CaptureMeta, json.dumps(table | wrong))
