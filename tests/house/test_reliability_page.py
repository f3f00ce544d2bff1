"""What docs/reliability.md tells operators to look for is there to be found."""

import re

from tests.house.tree import ROOT

SENTENCE = re.compile(r"`(an? [a-z ]+)`")


def test_every_log_line_that_the_page_quotes_is_one_of_ours() -> None:
    quoted = SENTENCE.findall((ROOT / "docs" / "reliability.md").read_text())
    code = "".join(path.read_text() for path in (ROOT / "service").rglob("*.py"))
    assert len(quoted) > 1
    assert [sentence for sentence in quoted if f'"{sentence}"' not in code] == []
