"""What devices run and should run, by slot; tags of models, and versions that were deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAMING = {"uq": "uq_%(table_name)s_%(column_0_name)s"}
_MEMBER_TEXTS = (
    ("slot", 64), ("previous_digest", 80), ("prior_model", 128), ("prior_version", 128), ("prior_digest", 80),
)  # fmt: skip


def upgrade() -> None:
    """Apply."""
    texts = (("model", 128), ("version", 128), ("digest", 80), ("state", 16), ("desired_model", 128),
             ("desired_version", 128), ("desired_digest", 80), ("job_id", 64))  # fmt: skip
    slots = op.create_table(
        "device_slots",
        sa.Column("device_id", _KEY, sa.ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("slot", sa.String(64), primary_key=True),
        *(sa.Column(name, sa.String(size), nullable=False) for name, size in texts),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
    )
    for name in ("model", "digest", "desired_digest"):
        op.create_index(f"ix_device_slots_{name}", "device_slots", [name])
    _fill(slots)
    for name in ("desired_model", "desired_version"):
        # In place: SQLite would empty the tables that refer to devices if this one were copied.
        op.execute(f"ALTER TABLE devices DROP COLUMN {name}")
    op.add_column("rollouts", sa.Column("slot", sa.String(64), nullable=False, server_default=""))
    for name, size in _MEMBER_TEXTS:
        op.add_column("members", sa.Column(name, sa.String(size), nullable=False, server_default=""))
    op.add_column("members", sa.Column("has_place", sa.Boolean(), nullable=False, server_default=sa.true()))
    _unique_members(["rollout_id", "device_id"], ["rollout_id", "device_id", "slot"])
    _registry()


def _registry() -> None:
    op.create_table(
        "retired_versions",
        sa.Column("id", _KEY, primary_key=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("retired_at", sa.Float(), nullable=False),
        sa.UniqueConstraint("model", "version", "target"),
    )
    op.create_index("ix_retired_versions_model", "retired_versions", ["model"])
    op.create_table(
        "model_tags",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("moved_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "tag_moves",
        sa.Column("id", _KEY, primary_key=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("previous", sa.String(128), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
    )
    op.create_index("ix_tag_moves_model_name", "tag_moves", ["model", "name"])


def _unique_members(old: list[str], new: list[str]) -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE members DROP CONSTRAINT members_{'_'.join(old)}_key")
        op.create_unique_constraint(f"members_{'_'.join(new)}_key", "members", new)
        return
    with op.batch_alter_table("members", naming_convention=_NAMING) as batch:
        batch.drop_constraint("uq_members_rollout_id", type_="unique")
        batch.create_unique_constraint("uq_members_rollout_id", new)


def _fill(slots: sa.Table) -> None:
    """Slots from the latest health of each device. A wish survives where its version runs; where it does not, a
    failed rollout may have left it behind."""
    for device in _devices():
        health = device.health if isinstance(device.health, dict) else json.loads(device.health or "{}")
        models = [one for one in health.get("models", []) if isinstance(one, dict) and one.get("slot")]
        rows = [_row(device, one) for one in models]
        if rows:
            op.bulk_insert(slots, rows)


def _devices() -> Iterator[Any]:
    connection, last = op.get_bind(), 0
    query = sa.text(
        "SELECT id, desired_model, desired_version, health FROM devices WHERE id > :last ORDER BY id LIMIT 500"
    )
    while rows := connection.execute(query, {"last": last}).all():
        last = rows[-1].id
        yield from rows


def _row(device: Any, one: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - a row
    model, version = str(one.get("name", ""))[:128], str(one.get("version", ""))[:128]
    digest = str(one.get("manifest_digest") or "")[:80]
    kept = bool(digest) and (model, version) == (device.desired_model, device.desired_version)
    return {
        "device_id": device.id, "slot": str(one["slot"])[:64], "model": model, "version": version, "digest": digest,
        "state": str(one.get("state", ""))[:16], "message": str(one.get("message", "")),
        "desired_model": model if kept else "", "desired_version": version if kept else "",
        "desired_digest": digest if kept else "", "job_id": "", "reason": "", "changed_at": 0.0,
    }  # fmt: skip


def downgrade() -> None:
    """Take back; of several slots of a device the first wish remains, and of several members the first."""
    for table in ("tag_moves", "model_tags", "retired_versions"):
        op.drop_table(table)
    op.execute(
        "DELETE FROM members WHERE id NOT IN (SELECT min(id) FROM members GROUP BY rollout_id, device_id)"
    )
    _unique_members(["rollout_id", "device_id", "slot"], ["rollout_id", "device_id"])
    for name in ("has_place", *(name for name, _size in _MEMBER_TEXTS)):
        op.execute(f"ALTER TABLE members DROP COLUMN {name}")
    op.execute("ALTER TABLE rollouts DROP COLUMN slot")
    for name in ("desired_model", "desired_version"):
        op.add_column("devices", sa.Column(name, sa.String(128), nullable=False, server_default=""))
        op.execute(
            f"UPDATE devices SET {name} = coalesce((SELECT s.{name} FROM device_slots s WHERE s.device_id = devices.id"
            " AND s.desired_digest <> '' ORDER BY s.slot LIMIT 1), '')"
        )
    op.drop_table("device_slots")
