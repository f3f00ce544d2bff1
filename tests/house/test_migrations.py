from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect

from tests.house.tree import ROOT


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path / 'schema.db'}")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def migrations(database: Connection) -> Config:
    config = Config(toml_file=ROOT / "pyproject.toml")
    config.attributes["connection"] = database
    return config


def tables(database: Connection) -> set[str]:
    return set(inspect(database).get_table_names()) - {"alembic_version"}


def test_migrations_and_declared_tables_agree(migrations: Config) -> None:
    command.upgrade(migrations, "head")
    command.check(migrations)


def test_migrations_go_up_down_and_up_again(migrations: Config, database: Connection) -> None:
    command.upgrade(migrations, "head")
    first = tables(database)
    assert first
    command.downgrade(migrations, "base")
    assert tables(database) == set()
    command.upgrade(migrations, "head")
    assert tables(database) == first


def test_migrations_are_one_line_of_history(migrations: Config) -> None:
    script = ScriptDirectory.from_config(migrations)
    assert len(script.get_heads()) == 1
    assert len(script.get_bases()) == 1
