"""docs/security.md names what exists."""

import ast
import re

from service.container import AUDIT_EVERY
from service.core.audit import MOST_HANDOUTS, MOST_REFUSALS, MOST_WAITING
from tests.house.tree import ROOT, modules, syntax

PAGE = (ROOT / "docs" / "security.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def known_tests() -> set[str]:
    return {
        node.name
        for path in modules("tests")
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_the_security_page_names_exists() -> None:
    named = set(re.findall(r"\btest_\w+", PAGE))
    assert len(named) > 20
    assert sorted(named - known_tests()) == []


def test_every_threat_names_what_stops_it_and_a_test() -> None:
    rows = [row for row in section("Threats").splitlines() if row.startswith("| ")][1:]
    assert rows
    assert [row for row in rows if row.count("|") != 4 or "`test_" not in row.rpartition("| ")[2]] == []


def test_the_page_says_what_to_do_for_everything_that_can_leak() -> None:
    rows = [row for row in section("When something has leaked").splitlines() if row.startswith("| ")][1:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [
        *("sealing key", "database dump", "Redis dump", "spool", "client secret", "caller's key", "admin key"),
        *("access token", "refresh token", "connect URL", "logs"),
    ]


def test_the_numbers_of_the_audit_are_those_of_the_code() -> None:
    told = section("The audit and its losses")
    assert told.count(f"{AUDIT_EVERY.total_seconds():.0f} seconds") == 2
    assert f"at most {MOST_WAITING:,} entries wait" in told
    assert f"tells {MOST_HANDOUTS:,} hand-outs of a minute apart" in told
    assert f"{MOST_REFUSALS:,} different refusals" in section("Threats")


def test_the_proxy_logs_no_address_as_it_was_typed() -> None:
    """Another spelling of a page's address, or its query, would take a ticket, a state or a code into the log."""
    conf = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    directives = re.sub(r"#.*", "", conf)
    assert "$shown" in directives
    assert set(re.findall(r"\$(?:request_uri|request|args|query_string|arg_\w+|http_referer)\b", directives)) == set()
