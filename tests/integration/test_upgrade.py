"""An upgrade as docs/deployment.md tells it: the schema first; brokers of the version before go on meanwhile."""

import secrets
from pathlib import Path

import pytest

from tests.integration.terminal import Terminal
from tests.support.brokers import Broker, broker_here, environment, settings_from
from tests.support.browser import connect
from tests.support.expansion import migrate_from, next_version
from tests.support.fleet import prepare
from tests.support.servers import Server, new_database
from tests.support.versatures import Versature, versature_process

ADMIN_KEY = "vtb_admin"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_broker_does_all_its_work_on_the_schema_of_the_next_version(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    variables = environment(tmp_path, "http://unset", BROKER_ADMIN_KEY=ADMIN_KEY)
    if kind == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        variables["BROKER_DATABASE_URL"] = new_database(server, f"t{secrets.token_hex(6)}")
    async with versature_process(f"http://127.0.0.1:{variables['BROKER_PORT']}/oauth/callback") as versature:
        variables["VERSATURE_BASE_URL"] = f"{versature.base_url}/api"
        await prepare(variables)
        settings = settings_from(variables)
        async with broker_here(settings) as before:
            await migrate_from(next_version(tmp_path / "next"), variables)
            await _must_do_all_its_work(before, versature)
        async with broker_here(settings) as started_after:
            await _must_do_all_its_work(started_after, versature)
        ended = await Terminal(tmp_path, variables).run("migrate")
        assert ended.code == 0, ended.err


async def _must_do_all_its_work(broker: Broker, versature: Versature) -> None:
    ready = (await broker.client.get("/readyz")).json()
    assert ready["status"] == "ready", ready
    user = f"u{secrets.token_hex(4)}"
    assert (await connect(broker, user, login="alice")).status_code == 303
    first = await _working_token(broker, versature, user)
    renewed = await broker.client.post(f"/tokens/{user}/rejected", json={"access_token": first})
    assert renewed.status_code == 200, renewed.text
    assert await _working_token(broker, versature, user) == renewed.json()["access_token"] != first
    assert (await broker.client.delete(f"/grants/{user}")).status_code == 200
    await _must_be_manageable(broker)


async def _working_token(broker: Broker, versature: Versature, user: str) -> str:
    answer = await broker.client.get(f"/tokens/{user}")
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["access_token"]
    assert await versature.whose(token) == "alice"
    return token


async def _must_be_manageable(broker: Broker) -> None:
    name = f"n{secrets.token_hex(4)}"
    steps: list[tuple[str, str, dict[str, object] | None]] = [
        (
            "POST",
            "/applications",
            {"name": name, "client_id": "i", "client_secret": "s", "grant_types": ["client_credentials"]},
        ),
        ("PATCH", f"/applications/{name}", {"client_secret": "another"}),
        ("POST", "/callers", {"name": name, "scopes": ["tokens"], "users": ["*"]}),
        ("POST", f"/callers/{name}/keys", None),
        ("GET", "/audit", None),
        ("DELETE", f"/callers/{name}", None),
        ("DELETE", f"/applications/{name}", None),
    ]
    for method, path, body in steps:
        answer = await broker.client.request(method, path, json=body, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
        assert answer.is_success, f"{method} {path}: {answer.text}"
