"""Name telemetry and captures for what they are: health figures were kept as samples, phases of detections as kinds."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Both databases rename a column in place; Alembic's own way on SQLite would copy the table.
_COLUMNS = (
    ("roll_ups", "samples", "reports"),
    ("detections", "kind", "phase"),
    ("captures", "sample_id", "capture_id"),
)
# PostgreSQL names constraints after the table and columns that they were made for.
_CONSTRAINTS = (
    ("telemetry", "samples_pkey", "telemetry_pkey"),
    ("telemetry", "samples_device_id_fkey", "telemetry_device_id_fkey"),
    ("telemetry", "samples_device_id_stream_at_key", "telemetry_device_id_stream_at_key"),
    ("captures", "captures_device_id_sample_id_key", "captures_device_id_capture_id_key"),
)


def upgrade() -> None:
    """Apply."""
    op.drop_index("ix_samples_at", "samples")
    op.rename_table("samples", "telemetry")
    op.create_index("ix_telemetry_at", "telemetry", ["at"])
    for table, old, new in _COLUMNS:
        op.execute(f'ALTER TABLE {table} RENAME COLUMN "{old}" TO "{new}"')
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER SEQUENCE samples_id_seq RENAME TO telemetry_id_seq")
        for table, old, new in _CONSTRAINTS:
            op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}")


def downgrade() -> None:
    """Take back."""
    if op.get_context().dialect.name == "postgresql":
        for table, old, new in _CONSTRAINTS:
            op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {new} TO {old}")
        op.execute("ALTER SEQUENCE telemetry_id_seq RENAME TO samples_id_seq")
    for table, old, new in _COLUMNS:
        op.execute(f'ALTER TABLE {table} RENAME COLUMN "{new}" TO "{old}"')
    op.drop_index("ix_telemetry_at", "telemetry")
    op.rename_table("telemetry", "samples")
    op.create_index("ix_samples_at", "samples", ["at"])
