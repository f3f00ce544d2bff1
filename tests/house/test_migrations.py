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


ADDS = {"add_column", "batch_alter_table", "bulk_insert", "create_index", "create_table", "f"}
HARMLESS_UNIQUE_INDEXES = {"ix_api_keys_caller_id"}  # older than the first version; before it a caller had one key


@pytest.mark.parametrize("path", modules("alembic/versions"), ids=lambda path: path.stem)
def test_a_migration_only_adds(path: Path) -> None:
    """Or brokers of the version before could not go on beside it; docs/deployment.md tells how to take away."""
    assert takes_away(syntax(path)) == []


@pytest.mark.parametrize(
    "step",
    [
        "op.drop_column('grants', 'scope')",
        "op.execute('DELETE FROM grants')",
        "op.create_unique_constraint('new', 'grants', ['scope'])",
        "op.create_index('ix_new', 'grants', ['scope'], unique=True)",
        "with op.batch_alter_table('grants') as batch_op: batch_op.create_index('ix_new', ['scope'], unique=True)",
        "op.add_column('grants', sa.Column('new', sa.Text(), nullable=False))",
        "op.add_column('grants', sa.Column('new', sa.Text(), nullable=True, unique=True))",
    ],
)
def test_what_takes_away_or_forbids_is_noticed(step: str) -> None:
    assert len(takes_away(ast.parse(f"def upgrade() -> None:\n    op.create_table('new')\n    {step}"))) == 1


@pytest.mark.parametrize(
    "step",
    [
        "op.create_index('ix_new', 'grants', ['scope'])",
        "op.create_index('ix_new', 'new', ['id'], unique=True)",
        "with op.batch_alter_table('new') as batch_op: batch_op.create_index('ix_new', ['id'], unique=True)",
        "op.add_column('grants', sa.Column('new', sa.Text(), server_default='', nullable=False))",
    ],
)
def test_what_only_adds_is_let_through(step: str) -> None:
    assert takes_away(ast.parse(f"def upgrade() -> None:\n    op.create_table('new')\n    {step}")) == []


def takes_away(migration: ast.Module) -> list[str]:
    """What of it a broker of the version before could trip over."""
    [upgrade] = [node for node in migration.body if isinstance(node, ast.FunctionDef) and node.name == "upgrade"]
    calls = [node for node in ast.walk(upgrade) if isinstance(node, ast.Call)]
    made_here = {ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) == "op.create_table"}
    return [
        ast.unparse(call)
        for call in calls
        if ast.unparse(call.func).startswith(("op.", "batch_op.")) and not _only_adds(call, upgrade, made_here)
    ]


def _only_adds(call: ast.Call, upgrade: ast.FunctionDef, made_here: set[str]) -> bool:
    match ast.unparse(call.func).partition(".")[2]:
        case "add_column":
            [column] = [part for part in call.args if isinstance(part, ast.Call)]
            may_be_left_out = _told(column, "nullable") == "True" or _told(column, "server_default") != "None"
            return may_be_left_out and _told(column, "unique") in {"None", "False"}
        case "create_index" if _told(call, "unique") not in {"None", "False"}:
            return _table(call, upgrade) in made_here or ast.literal_eval(call.args[0]) in HARMLESS_UNIQUE_INDEXES
        case verb:
            return verb in ADDS


def _told(call: ast.Call, name: str) -> str:
    return next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name), "None")


def _table(create_index: ast.Call, upgrade: ast.FunctionDef) -> str:
    """What it is made on: its second argument, or the table of the batch around it."""
    for batch in (node for node in ast.walk(upgrade) if isinstance(node, ast.With)):
        if create_index in ast.walk(batch):
            [opened] = [item.context_expr for item in batch.items if isinstance(item.context_expr, ast.Call)]
            return ast.unparse(opened.args[0])
    return ast.unparse(create_index.args[1])
