"""What import-linter's contracts cannot say. The contracts themselves are in pyproject.toml and run in `make lint`."""

import sys
from pathlib import Path

from tests.house.tree import ROOT, at, imports, modules

ADAPTERS = ROOT / "service" / "adapters"
# Packages that are one library to us.
LIBRARY = {"aiosqlite": "sql", "alembic": "sql", "psycopg": "sql", "sqlalchemy": "sql", "sqlmodel": "sql"}


def adapter_of(name: str) -> str:
    """Several files can be one adapter: `sql_*` and `tables`, and `redis_*`."""
    first = name.partition("_")[0]
    return "sql" if name == "tables" else first if first in {"sql", "redis"} else name


def test_the_core_imports_the_standard_library_and_itself() -> None:
    allowed = {*sys.stdlib_module_names, "service"}
    foreign = [
        f"{at(path, line)} {name}"
        for path in modules("service/core")
        for line, name in imports(path)
        if name.split(".")[0] not in allowed
    ]
    assert foreign == []


def test_adapters_do_not_know_each_other() -> None:
    rooms = {path.stem for path in modules("service/adapters")} - {"__init__"}
    friends = [
        f"{at(path, line)} {name}"
        for path in modules("service/adapters")
        for line, name in imports(path)
        for other in rooms & set(name.removeprefix("service.adapters.").split(".")[:1])
        if name.startswith("service.adapters.") and adapter_of(other) != adapter_of(path.stem)
    ]
    assert friends == []


def libraries(path: Path) -> set[str]:
    roots = {name.split(".")[0] for _, name in imports(path)} - sys.stdlib_module_names - {"service"}
    return {LIBRARY.get(root, root) for root in roots}


def test_an_adapter_speaks_one_library() -> None:
    many = {at(path): found for path in modules("service/adapters") if len(found := libraries(path)) > 1}
    assert many == {}
