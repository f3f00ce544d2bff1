import re
from pathlib import PurePosixPath

from tests.house.tree import ROOT

INSTRUCTION = re.compile(r"^(?P<word>[A-Z]+) (?P<rest>.*)$", re.MULTILINE)


def instructions(word: str) -> list[str]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [found["rest"] for found in INSTRUCTION.finditer(text) if found["word"] == word]


def test_what_must_outlive_a_container_lies_in_its_volume() -> None:
    [volume] = instructions("VOLUME")
    settings = dict(setting.split("=", 1) for line in instructions("ENV") for setting in line.split())
    escrow = PurePosixPath(settings["BROKER_ESCROW_DIR"])
    database = PurePosixPath(settings["BROKER_DATABASE_URL"].removeprefix("sqlite+aiosqlite:///"))
    for place in (escrow, database):
        assert place.is_absolute()
        assert PurePosixPath(volume) in place.parents
    assert escrow not in {database, *database.parents}
