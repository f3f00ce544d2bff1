import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from service.cli import app
from tests.house.tree import ROOT, modules, syntax


def targets() -> set[str]:
    """The targets that are commands, as the Makefile declares them."""
    declared = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared
    return set(declared[1].split())


def code_in(document: str) -> Iterator[str]:
    """The lines of *document* that are set as code."""
    text = (ROOT / document).read_text()
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def commands_in(document: str, program: str) -> set[tuple[str, ...]]:
    """The leading plain words after each *program* in the document's code."""
    found = set()
    for line in code_in(document):
        for words in re.findall(rf"(?:^|[\s/]){program}((?: +[a-z][a-z-]*(?![\w=./]))+)", line):
            found.add(tuple(word for word in words.split() if word != program))  # an image may have the same name
    return found


def test_help_lists_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert set(re.findall(r"^  make ([a-z-]+) +\S", shown, re.MULTILINE)) == targets()


def test_every_target_is_a_command_or_a_file() -> None:
    rules = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert rules == targets()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/deployment.md", "docs/operations.md"])
def test_a_document_names_only_targets_that_exist(document: str) -> None:
    named = {words[0] for words in commands_in(document, "make")}
    assert named
    assert named <= targets()


@pytest.mark.parametrize(
    "document",
    ["README.md", "docs/callers.md", "docs/configuration.md", "docs/deployment.md", "docs/operations.md"],
)
def test_a_document_names_only_commands_that_exist(
    document: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = []
    for words in sorted(commands_in(document, "token-broker")):
        monkeypatch.setattr(sys, "argv", ["token-broker", *words, "--help"])
        with pytest.raises(SystemExit) as end:
            app()
        if end.value.code:
            missing.append(" ".join(words))
    capsys.readouterr()
    assert missing == []


def test_ci_gets_what_tests_would_be_skipped_without() -> None:
    wanted = {
        call.args[0].value
        for path in modules("tests")
        for call in ast.walk(syntax(path))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) == "shutil.which"
        and isinstance(call.args[0], ast.Constant)
    }
    assert {"nginx", "node", "promtool"} <= wanted
    before_tests = (ROOT / "Makefile").read_text().partition("\nci:")[2].partition("$(MAKE) test\n")[0]
    assert wanted - {"chromium"} <= set(re.findall(r"\$\(call fetch,(\w+),", before_tests))


def test_ci_runs_the_readmes_own_test_command() -> None:
    assert ("test",) in commands_in("README.md", "make")
    recipe = re.search(r"^ci:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    assert "\t@$(MAKE) test\n" in recipe[1]
    assert "make ci" in (ROOT / ".ci" / "run").read_text()
