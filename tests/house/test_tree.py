import ast
import os
import re

from tests.house.tree import ROOT, at, files, modules, syntax

MODULE_LINES = 300
FUNCTION_LINES = 60
NAMES_WITHOUT_A_JOB = {"base", "common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
# Joined here, or this file would name them.
REGISTRY_HOSTS = (
    ".".join(("pypi", "org")),
    "".join(("python", "hosted")),
    ".".join(("registry", "npmjs")),
    ".".join(("deb", "debian", "org")),
    ".".join(("security", "debian", "org")),
)


def test_a_module_has_one_job() -> None:
    long = [
        f"{at(path)} has {lines} lines"
        for path in modules("service", "sandbox", "bench")
        if (lines := len(path.read_text().splitlines())) > MODULE_LINES
    ]
    assert long == []


def test_a_function_has_one_job() -> None:
    long = [
        f"{at(path, node.lineno)} {node.name} has {lines} lines"
        for path in modules("service", "sandbox", "bench")
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert long == []


def test_a_module_is_named_after_its_job() -> None:
    vague = [
        at(path)
        for path in modules("service", "sandbox", "bench", "tests")
        if NAMES_WITHOUT_A_JOB & {path.stem, *path.relative_to(ROOT).parts}
    ]
    assert vague == []


def test_a_module_says_what_it_is_for() -> None:
    silent = [at(path) for path in modules("service", "sandbox", "bench") if not ast.get_docstring(syntax(path))]
    assert silent == []


def test_migrations_do_not_hide_the_library() -> None:
    assert (ROOT / "alembic" / "env.py").is_file()
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_migrations_have_dated_names() -> None:
    versions = modules("alembic/versions")
    assert [at(path) for path in versions if not re.fullmatch(r"\d{8}_[0-9a-z]+_[a-z0-9_]+", path.stem)] == []


def test_no_file_names_a_registry_host() -> None:
    named = [
        f"{at(path)}: {host}"
        for path in files()
        for host in REGISTRY_HOSTS
        if host.encode() in path.read_bytes().lower()
    ]
    assert named == []


def test_the_front_door_is_complete() -> None:
    expected = [
        ".ci/run",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Dockerfile",
        "Makefile",
        "README.md",
        "SECURITY.md",
        "docker-compose.yml",
        "openapi.json",
        "pyproject.toml",
        "requirements-dev.txt",
        "requirements.txt",
    ]
    assert [name for name in expected if not (ROOT / name).is_file()] == []
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
