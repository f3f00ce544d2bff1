"""docs/callers.md tells what to do about every problem that a service can meet."""

import re

from service.api.problems import BY_CODE
from tests.house.tree import ROOT

SHOWN_TO_BROWSERS_ONLY = {"invalid_authorization_request", "authorization_expired", "authorization_denied"}


def test_the_guide_has_every_problem_with_its_status() -> None:
    told: dict[str, int] = {}
    for status, codes in re.findall(
        r"^\| (\d{3}) \| ([^|]+) \|", (ROOT / "docs" / "callers.md").read_text(), re.MULTILINE
    ):
        told |= {code: int(status) for code in re.findall(r"`(\w+)`", codes)}
    assert told == {code: problem.status for code, problem in BY_CODE.items() if code not in SHOWN_TO_BROWSERS_ONLY}
