"""api key ids.

Revision: 0003, after 0002. Rows of a version that knows no ids get the id `first`: it keeps one key per caller.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.add_column(sa.Column("id", sa.Text(), server_default="first", nullable=False))
        batch_op.add_column(sa.Column("created_at", sa.BigInteger(), nullable=True))
        batch_op.create_index("ix_api_keys_caller_id", ["caller", "id"], unique=True)


def downgrade() -> None:
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.drop_index("ix_api_keys_caller_id")
        batch_op.drop_column("created_at")
        batch_op.drop_column("id")
