"""doubtful grants.

Revision: 0006, revises 0005.

An index only: a listing of those who have to connect again, or were revoked, read all grants to find the few.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

DOUBTFUL = sa.text("state <> 'connected' OR refresh_sealed IS NULL")


def upgrade() -> None:
    with op.batch_alter_table("grants", schema=None) as batch_op:
        batch_op.create_index(
            "ix_grants_doubtful",
            ["application", "user"],
            unique=False,
            sqlite_where=DOUBTFUL,
            postgresql_where=DOUBTFUL,
        )


def downgrade() -> None:
    with op.batch_alter_table("grants", schema=None) as batch_op:
        batch_op.drop_index("ix_grants_doubtful")
