"""The next version of the product: this tree with one migration more, which adds something to tables that there are."""

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlmodel import SQLModel

from service.adapters.sql_migrations import alembic_config
from tests.house.tree import ROOT

TRIES = 5
_MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{newest}"


def upgrade() -> None:
    op.create_table("novelties", sa.Column("id", sa.Integer(), primary_key=True))
    for table in {tables}:
        op.add_column(table, sa.Column("novelty", sa.Text(), nullable=True))
        op.add_column(table, sa.Column("novelties", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        op.create_index("ix_" + table + "_novelty", table, ["novelty"])
"""


def next_version(folder: Path, tables: Sequence[str] = tuple(sorted(SQLModel.metadata.tables))) -> Path:
    """Make it in *folder*; programs that run there are of that version."""
    for part in ("service", "alembic"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    newest = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert newest is not None
    revision = f"{int(newest) + 1:04}"
    text = _MIGRATION.format(revision=revision, newest=newest, tables=tuple(tables))
    (folder / "alembic" / "versions" / f"29990101_{revision}_novelties.py").write_text(text)
    return folder


async def migrate_from(tree: Path, variables: Mapping[str, str]) -> None:
    """`token-broker migrate` of the version in *tree*, again where it gave way to others; it must end well at last."""
    for _ in range(TRIES):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "migrate"), cwd=tree, env={**os.environ, **variables}
        )
        if await process.wait() == 0:
            return
    raise AssertionError("the migration did not succeed")
