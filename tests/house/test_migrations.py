import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect

from tests.house.tree import ROOT, modules, syntax


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


def test_revisions_count_upwards(migrations: Config) -> None:
    """So that a broker can tell a schema of a later version, whose revision it does not know."""
    found = [script.revision for script in ScriptDirectory.from_config(migrations).walk_revisions()]
    assert found[::-1] == [f"{number:04}" for number in range(1, len(found) + 1)]


@pytest.mark.parametrize("path", modules("alembic/versions"), ids=lambda path: path.stem)
def test_a_migration_only_adds(path: Path) -> None:
    """Or brokers of the version before could not go on beside it; docs/deployment.md tells how to take away."""
    [upgrade] = [node for node in syntax(path).body if isinstance(node, ast.FunctionDef) and node.name == "upgrade"]
    calls = [node for node in ast.walk(upgrade) if isinstance(node, ast.Call)]
    verbs = {ast.unparse(call.func).partition(".")[2] for call in calls if ast.unparse(call.func)[:3] in {"op.", "bat"}}
    assert verbs <= {"add_column", "batch_alter_table", "bulk_insert", "create_index", "create_table", "f"}
    for call in calls:
        if ast.unparse(call.func).endswith("add_column"):
            [column] = [part for part in call.args if isinstance(part, ast.Call)]
            told = {keyword.arg: ast.unparse(keyword.value) for keyword in column.keywords}
            assert told["nullable"] == "True" or "server_default" in told, ast.unparse(call)
