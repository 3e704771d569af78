"""The class numbers of an export: those of the model's own label list, so that exports fit each other and the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.captures.service import truth
from edgec.fleet.registry.blobs import BlobStore
from edgec.fleet.store.tables import Capture, Manifest, ModelVersion
from edgec.runtime.artifact.oci import LABELS_TYPE

MOST_PREDICTED = 10_000
"""Class numbers from predictions beyond this are not believed."""


def class_list(session: Session, blobs: BlobStore, rows: Sequence[Capture]) -> tuple[list[str], set[str]]:
    """The labels by class number, for an export of `rows`, and those among them that no label list has.

    First the label list of the newest artifact of each model, in the order of their names; of a model that is not in
    the registry, the numbers that its predictions carry. Then labels that only people gave, in the order in which they
    first occurred in reviewed captures of these models.
    """
    models = sorted({row.model for row in rows})
    names: list[str] = []
    listed: set[str] = set()
    for model in models:
        own = _of_model(session, blobs, model)
        listed.update(own or ())
        names += [name for name in own or _predicted(session, model) if name not in names]
    known = set(names)
    reviewed = session.scalars(
        select(Capture)
        .where(Capture.model.in_(models), Capture.state.in_(("confirmed", "corrected")))
        .order_by(Capture.id)
    )
    for row in (*reviewed, *sorted(rows, key=lambda one: one.id)):
        for one in truth(row):
            if one["label"] not in known:
                known.add(one["label"])
                names.append(one["label"])
    return names, set(names) - listed


def _of_model(session: Session, blobs: BlobStore, model: str) -> list[str] | None:
    """The label list of a model; None without one."""
    rows = session.scalars(
        select(ModelVersion).filter_by(model=model).order_by(ModelVersion.pushed_at.desc())
    )
    for row in rows:
        content = session.scalar(
            select(Manifest.content).filter_by(repository=row.repository, digest=row.digest)
        )
        layers: list[dict[str, Any]] = json.loads(content).get("layers", []) if content else []
        for layer in layers:
            if layer.get("mediaType") == LABELS_TYPE:
                return blobs.read(str(layer["digest"])).decode().removesuffix("\n").split("\n")
    return None


def _predicted(session: Session, model: str) -> list[str]:
    """Labels by the class numbers in a model's predictions; a number that never occurred is named after itself."""
    numbered: dict[int, str] = {}
    for predictions in session.scalars(
        select(Capture.predictions).filter_by(model=model).order_by(Capture.id)
    ):
        for one in predictions:
            number = one.get("class_id", -1)
            if 0 <= number < MOST_PREDICTED:
                numbered.setdefault(number, one["label"])
    taken = set(numbered.values())
    names: list[str] = []
    for number in range(max(numbered, default=-1) + 1):
        name = numbered.get(number, f"class {number}")
        while number not in numbered and name in taken:
            name += "'"
        names.append(name)
    return list(dict.fromkeys(names))
