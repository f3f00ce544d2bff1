"""docs/architecture.md shows the house as it stands: its rooms are generated, its floors are the enforced ones."""

import re
from collections.abc import Sequence
from itertools import pairwise, product

from tests.house.handbook import ARCHITECTURE
from tests.house.tree import project

Arrows = set[tuple[str, str]]


def arrows(floors: Sequence[Sequence[str]]) -> Arrows:
    """From every room of a floor to every room of the next."""
    return {arrow for upper, lower in pairwise(floors) for arrow in product(upper, lower)}


def enforced() -> Arrows:
    [floors] = [found for found in project()["tool"]["importlinter"]["contracts"] if found["id"] == "floors"]
    return arrows([layer.split(" | ") for layer in floors["layers"]])


def test_the_picture_shows_the_floors_as_they_are_enforced() -> None:
    picture = re.search(r"```mermaid\nflowchart TD\n(.*?)```", ARCHITECTURE.read_text(), re.DOTALL)
    assert picture
    shown: Arrows = set()
    for line in picture[1].splitlines():
        shown |= arrows([floor.split(" & ") for floor in line.strip().split(" --> ")])
    assert shown == enforced()
