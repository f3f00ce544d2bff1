"""background renewal.

Revision: 0002, revises 0001.

Only adds, and everything added is nullable or has a default, so that brokers of the version before go on beside it.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

RENEWABLE = sa.text("state = 'connected' AND renew_at IS NOT NULL")
REFRESHABLE = sa.text("state = 'connected' AND refresh_sealed IS NOT NULL")
PENDING = sa.text("upstream_revocation = 'pending'")


def upgrade() -> None:
    op.create_table(
        "renewal_paces",
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("free_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("application"),
    )
    with op.batch_alter_table("grants", schema=None) as batch_op:
        batch_op.add_column(sa.Column("asked_at", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("renew_at", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("refusals", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("refused_since", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("entered_at", sa.BigInteger(), nullable=True))
        batch_op.create_index(
            "ix_grants_renew_at",
            ["application", "renew_at"],
            unique=False,
            sqlite_where=RENEWABLE,
            postgresql_where=RENEWABLE,
        )
        batch_op.create_index(
            "ix_grants_renewed_at",
            ["application", "renewed_at"],
            unique=False,
            sqlite_where=REFRESHABLE,
            postgresql_where=REFRESHABLE,
        )
        batch_op.create_index(
            "ix_grants_revocations", ["retry_at"], unique=False, sqlite_where=PENDING, postgresql_where=PENDING
        )


def downgrade() -> None:
    with op.batch_alter_table("grants", schema=None) as batch_op:
        batch_op.drop_index("ix_grants_revocations")
        batch_op.drop_index("ix_grants_renewed_at")
        batch_op.drop_index("ix_grants_renew_at")
        batch_op.drop_column("entered_at")
        batch_op.drop_column("refused_since")
        batch_op.drop_column("refusals")
        batch_op.drop_column("renew_at")
        batch_op.drop_column("asked_at")

    op.drop_table("renewal_paces")
