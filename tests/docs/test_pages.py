"""Every command of every page is run, in the order in which its reader meets it."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are one more package, for two lines

from tests.docs.pages import Block, blocks, pages
from tests.docs.shell import desk_in
from tests.docs.worlds import World, log_in, opened
from tests.house.tree import ROOT

NOT_RUN = {
    r"make (test|check)\b": "would run this test within itself; `.ci/run` runs it",
    r"make setup\b": "would install the product anew into the very environment that runs this test",
    r"make demo\b": "stays in front; the world `demo` is started by it",
}
"""The commands of the pages that are not run here, each with the reason. Docker has a stand-in: see worlds.py."""

EXECUTED = {"sh", "python", "js"}
CHECKED = {"json": json.loads, "yaml": yaml.safe_load, "python": ast.parse}
SHOWN_ONLY = {"", "text", "mermaid", "sql"}
SHARED_WORLDS = {"demo", "house"}
"""Pages leave these as they found them, so that one is enough for all; every other world is made for one page."""

QUICK = {"demo", "empty-README.md"}
"""What a newcomer meets first; all other journeys start much and take long, and belong to `make test-crash`."""


def journeys() -> dict[str, list[tuple[str, str]]]:
    """What to try together: pages, each with the world it is tried in, by a name for the test."""
    found: dict[str, list[tuple[str, str]]] = {}
    for block in blocks():
        for world in block.worlds:
            steps = found.setdefault(world if world in SHARED_WORLDS else f"{world}-{block.page}", [])
            if (block.page, world) not in steps:
                steps.append((block.page, world))
    return found


def without_what_is_not_run(block: Block) -> str:
    """The block's text less the lines that are not run here."""
    if block.language != "sh":
        return block.text
    unwanted = re.compile("|".join(NOT_RUN))
    return "".join(line for line in block.text.splitlines(keepends=True) if not unwanted.match(line))


@pytest.mark.parametrize(
    "journey", [name if name in QUICK else pytest.param(name, marks=pytest.mark.crash) for name in journeys()]
)
def test_the_commands_of_the_pages_do_what_they_say(
    journey: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not on PATH: the pages' commands were not tried")
    steps = journeys()[journey]
    left_out: set[str] = set()
    with opened(steps[0][1], tmp_path, request) as place:
        for page, world in steps:
            left_out |= follow([block for block in blocks() if block.page == page and world in block.worlds], place)
    if left_out:
        pytest.skip(f"node is not on PATH (Debian: nodejs): all was tried but the Node of {', '.join(left_out)}")


def follow(followed: list[Block], place: World) -> set[str]:
    """Type all blocks at one desk, and be the person at the browser; returns pages of which something was left out."""
    left_out = set()
    with desk_in(place) as desk:
        for block in followed:
            if block.language == "js" and shutil.which("node") is None:
                left_out.add(block.page)
                continue
            printed = desk.type(without_what_is_not_run(block), block.language)
            if block.login is not None:
                [link] = re.findall(r'"connect_url":"([^"]+)"', printed)
                log_in(link, block.login)
    return left_out


def test_every_command_has_a_world_or_a_reason() -> None:
    lost = [
        f"{block.page}: {block.text}"
        for block in blocks()
        if block.language == "sh" and not block.worlds and without_what_is_not_run(block).strip()
    ]
    assert lost == []


def test_what_the_pages_write_into_a_checkout_is_never_committed() -> None:
    typed = "".join(block.text for block in blocks() if {"empty", "fleet", "docker"} & set(block.worlds))
    written = set(re.findall(r">([\w./-]+)", typed))
    assert "broker.env" in written
    ignored = subprocess.run(["git", "check-ignore", *written], cwd=ROOT, capture_output=True, text=True, check=False)
    assert written - set(ignored.stdout.split()) == set()


def test_what_is_quick_is_still_a_journey() -> None:
    assert journeys().keys() >= QUICK


def test_every_reason_is_still_needed() -> None:
    lines = [line for block in blocks() if block.language == "sh" for line in block.text.splitlines()]
    assert [pattern for pattern in NOT_RUN if not any(re.match(pattern, line) for line in lines)] == []


def test_what_is_shown_is_well_formed() -> None:
    for block in blocks():
        assert block.language in EXECUTED | CHECKED.keys() | SHOWN_ONLY, f"{block.page}: {block.language}"
        if check := CHECKED.get(block.language):
            check(block.text)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]+))?\)", text):
        place = (page.parent / target) if target else page
        assert place.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", place.read_text(), re.MULTILINE)
            known = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in known, f"{target}#{anchor}"
