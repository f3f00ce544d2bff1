"""docs/reliability.md shows the matrix as it is."""

from tests.crash.matrix import markdown
from tests.house.tree import ROOT


def test_the_page_shows_the_matrix_that_is_tested() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    assert page.endswith(markdown()), "write the output of `python -m tests.crash.matrix` to the end of the page"
