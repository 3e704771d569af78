"""Sessions that end, scopes of tokens, failed attempts, users of the broker, and a chain for the audit log."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

from edgec.fleet.audit.chain import FIELDS, START, entry_hash

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_REFUSAL = "the audit log is append-only"


def _web_sessions(*columns: sa.Column[object], token_required: bool) -> None:
    """Create the table anew: everyone signs in again."""
    op.create_table(
        "web_sessions",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("token_id", _KEY, nullable=not token_required),
        *columns,
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["access_tokens.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("hash"),
    )
    op.create_index("ix_web_sessions_expires_at", "web_sessions", ["expires_at"])


def _new_tables() -> None:
    op.create_table(
        "sign_in_flows",
        sa.Column("hash", sa.String(length=64), primary_key=True),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("verifier", sa.String(length=128), nullable=False),
        sa.Column("target", sa.String(length=1024), nullable=False),
        sa.Column("session", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
    )
    op.create_index("ix_sign_in_flows_expires_at", "sign_in_flows", ["expires_at"])
    op.create_table(
        "attempts",
        sa.Column("kind", sa.String(length=32), primary_key=True),
        sa.Column("address", sa.String(length=64), primary_key=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("locked_until", sa.Float(), nullable=False),
    )
    op.create_index("ix_attempts_since", "attempts", ["since"])
    op.create_table(
        "mqtt_users",
        sa.Column("id", _KEY, primary_key=True),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("reads", sa.JSON(), nullable=False),
        sa.Column("writes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.UniqueConstraint("name"),
    )


def _chain_existing() -> None:
    connection, previous = op.get_bind(), START
    rows = (
        connection.execute(sa.text(f"SELECT id, {', '.join(FIELDS)} FROM audit ORDER BY id")).mappings().all()
    )
    for row in rows:
        detail = json.loads(row["detail"]) if isinstance(row["detail"], str) else row["detail"]
        previous = entry_hash(previous, {**row, "detail": detail})
        connection.execute(
            sa.text("UPDATE audit SET hash = :hash WHERE id = :id"), {"hash": previous, "id": row["id"]}
        )


def _refuse_changes() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION edgec_audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION edgec_audit_only_grows()"
        )
        return
    for what in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_no_{what.lower()} BEFORE {what} ON audit "
            f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        )


def _allow_changes() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP TRIGGER audit_only_grows ON audit")
        op.execute("DROP FUNCTION edgec_audit_only_grows()")
        return
    for what in ("update", "delete"):
        op.execute(f"DROP TRIGGER audit_no_{what}")


def upgrade() -> None:
    """Apply."""
    op.drop_table("web_sessions")
    _web_sessions(
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.Column("confirmed_at", sa.Float(), nullable=False),
        token_required=False,
    )
    _new_tables()
    op.add_column("access_tokens", sa.Column("scopes", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("audit", sa.Column("hash", sa.String(length=64), nullable=False, server_default=START))
    _chain_existing()
    _refuse_changes()


def downgrade() -> None:
    """Take back."""
    _allow_changes()
    op.drop_column("audit", "hash")
    op.drop_column("access_tokens", "scopes")
    for table in ("mqtt_users", "attempts", "sign_in_flows", "web_sessions"):
        op.drop_table(table)
    _web_sessions(token_required=True)
