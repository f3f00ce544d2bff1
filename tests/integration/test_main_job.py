from pathlib import Path

from sandbox.app import create_sandbox
from sandbox.server import running
from tests.support.brokers import broker_here, environment, furnish, settings_from
from tests.support.browser import connect
from tests.support.clock import FakeClock


async def test_a_connected_user_and_the_company_get_tokens_that_work(tmp_path: Path) -> None:
    variables = environment(tmp_path, "http://unset")
    port = variables["BROKER_PORT"]
    sandbox = create_sandbox(redirect_uris=[f"http://127.0.0.1:{port}/oauth/callback"])
    async with running(sandbox) as versature:
        settings = settings_from({**variables, "VERSATURE_BASE_URL": f"{versature.base_url}/api"})
        await furnish(settings)
        async with broker_here(settings, clock=FakeClock()) as broker:
            assert (await broker.client.get("/tokens/alice")).status_code == 404
            assert (await connect(broker, "alice")).status_code == 303
            for user in ("alice", "@company"):
                answer = await broker.client.get(f"/tokens/{user}")
                assert answer.status_code == 200, answer.text
                bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
                whoami = await broker.client.get(f"{versature.base_url}/api/whoami/", headers=bearer)
                assert whoami.status_code == 200
                assert whoami.json()["user"] == user
