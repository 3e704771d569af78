"""The page offers every guard that a plan has."""

from __future__ import annotations

from edgec.fleet.dashboard.guards import CRITERIA, MODEL, PLAN
from edgec.fleet.rollouts.plan import ModelCriteria, Plan


def test_every_guard_of_a_plan_is_in_the_page() -> None:
    others = {"stages", "on_failure", "repair", CRITERIA}
    assert set(PLAN) == set(Plan.model_fields) - others
    assert set(MODEL) == set(ModelCriteria.model_fields)
