"""The image and the composition, as far as they can be judged without Docker."""

import ast
import re
from pathlib import PurePosixPath
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are one more package, for one line

from service.config import Settings
from tests.house.tree import ROOT, project

INSTRUCTION = re.compile(r"^(?P<word>[A-Z]+) (?P<rest>.*)$", re.MULTILINE)
BROKERS = ("broker", "pages", "migrate")


def instructions(word: str, *, stage: str | None = None) -> list[str]:
    """What follows *word* in the Dockerfile, or in one of its stages."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    if stage is not None:
        text = re.search(rf"^FROM \S+ AS {stage}$(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]
    return [found["rest"] for found in INSTRUCTION.finditer(text) if found["word"] == word]


def composition() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = composition()["services"]
    return found


def image_settings() -> dict[str, str]:
    return dict(setting.split("=", 1) for line in instructions("ENV", stage="broker") for setting in line.split())


def test_what_must_outlive_a_container_lies_in_its_volume() -> None:
    [volume] = instructions("VOLUME")
    settings = image_settings()
    escrow = PurePosixPath(settings["BROKER_ESCROW_DIR"])
    database = PurePosixPath(settings["BROKER_DATABASE_URL"].removeprefix("sqlite+aiosqlite:///"))
    for place in (escrow, database):
        assert place.is_absolute()
        assert PurePosixPath(volume) in place.parents
    assert escrow not in {database, *database.parents}


def test_the_image_builds_in_one_stage_and_runs_in_another_without_rights() -> None:
    [user] = instructions("USER", stage="runtime")
    assert int(user) > 0
    assert instructions("RUN", stage="broker") == []
    assert not any("pip" in line or "apt" in line for line in instructions("RUN", stage="runtime"))


def test_the_image_gets_its_signals_itself_and_tells_how_it_is() -> None:
    [command] = instructions("CMD", stage="broker")
    assert ast.literal_eval(command) == ["token-broker", "serve"]
    assert instructions("STOPSIGNAL") == []  # SIGTERM, which the broker drains on
    [check] = instructions("HEALTHCHECK")
    assert "/healthz" in check


def test_the_image_tells_its_version() -> None:
    [labels] = instructions("LABEL", stage="broker")
    assert f'org.opencontainers.image.version="{project()["project"]["version"]}"' in labels


def test_every_setting_of_the_image_and_the_composition_exists() -> None:
    known = {name.upper() for name in Settings.model_fields}
    given = set(image_settings())
    for name in BROKERS:
        given |= set(services()[name]["environment"])
    assert {name.removesuffix("_FILE") for name in given} <= known
    lines = (ROOT / "deploy" / "sandbox.env").read_text().splitlines()
    substituted = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert {line.partition("=")[0] for line in lines if not line.startswith("#")} <= substituted <= known


def test_no_secret_stands_in_the_composition() -> None:
    for name in BROKERS:
        broker = services()[name]
        files = [value for key, value in broker["environment"].items() if key.endswith("_FILE")]
        assert sorted(files) == sorted(f"/run/secrets/{secret}" for secret in broker["secrets"])
    assert {secret["file"] for secret in composition()["secrets"].values()} == {
        f"./secrets/{name}" for service in services().values() for name in service.get("secrets", ())
    }
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_composition_passes_on_all_that_there_is_to_say_of_the_provider() -> None:
    """And has no defaults of its own: what is left empty has the product's."""
    of_the_provider = {name.upper() for name in Settings.model_fields if name.startswith("versature_")}
    for name in BROKERS:
        given = {key: value for key, value in services()[name]["environment"].items() if key.startswith("VERSATURE_")}
        secret = given.pop("VERSATURE_CLIENT_SECRET_FILE")
        assert secret == "/run/secrets/client-secret"
        assert given.pop("VERSATURE_CLIENT_ID").startswith("${VERSATURE_CLIENT_ID:?")
        assert given == {key: f"${{{key}:-}}" for key in given}
        assert {*given, "VERSATURE_CLIENT_ID", "VERSATURE_CLIENT_SECRET"} == of_the_provider


def test_only_brokers_that_operators_reach_know_the_admin_key() -> None:
    assert [name for name in services() if "admin-key" in services()[name].get("secrets", ())] == ["broker"]


def test_public_and_internal_routes_are_served_by_different_brokers_behind_one_proxy() -> None:
    routes = {name: services()[name]["environment"].get("BROKER_ROUTES") for name in BROKERS}
    assert routes == {"broker": "internal", "pages": "public", "migrate": None}
    conf = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    public, internal = conf.split("listen 8081")
    assert set(re.findall(r"http://([a-z]+):8000", public)) == {"pages"}
    assert set(re.findall(r"http://([a-z]+):8000", internal)) == {"broker"}
    exposed = {name for name, service in services().items() if "ports" in service}
    assert exposed == {"proxy", "sandbox"}
    published = [port for service in services().values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_two_replicas_wait_for_one_migration() -> None:
    assert {name: services()[name]["deploy"]["replicas"] for name in BROKERS} == {"broker": 2, "pages": 2, "migrate": 1}
    assert services()["migrate"]["command"] == ["token-broker", "migrate"]
    for name in ("broker", "pages"):
        assert services()[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert services()["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_every_container_of_ours_is_read_only_and_has_no_rights() -> None:
    [volume] = instructions("VOLUME")
    for name, service in services().items():
        assert "no-new-privileges:true" in service["security_opt"], name
        if "build" in service or name == "proxy":
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
    for name in BROKERS:
        assert services()[name]["volumes"] == [f"escrow:{volume}"]


def test_a_container_is_given_longer_to_end_than_the_broker_takes() -> None:
    drain = float(Settings.model_fields["broker_drain_seconds"].default)
    for name in BROKERS:
        assert float(services()[name]["stop_grace_period"].removesuffix("s")) > drain
