"""Leases of the fleet's processes, and what tells two devices of one identity apart."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "leases",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.Column("detail", sa.String(128), nullable=False),
    )
    op.add_column("devices", sa.Column("session_tokens", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("devices", sa.Column("rival", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("devices", sa.Column("report_interval_s", sa.Float(), nullable=True))


def downgrade() -> None:
    """Take back."""
    for column in ("report_interval_s", "rival", "session_tokens"):
        op.drop_column("devices", column)
    op.drop_table("leases")
