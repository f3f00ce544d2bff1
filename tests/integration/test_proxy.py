"""deploy/nginx/nginx.conf as it is deployed: a broker for services and one for browsers behind it."""

from pathlib import Path

import httpx

from tests.support.brokers import Broker, broker_process, client_of, environment, furnish, settings_from
from tests.support.browser import Browser
from tests.support.proxy import needs_nginx, proxy_before
from tests.support.versatures import versature_process

INTERNAL, PAGES = "127.0.0.2", "127.0.0.3"


@needs_nginx
async def test_browsers_reach_the_pages_services_the_rest_and_nobody_too_much(tmp_path: Path) -> None:
    variables = environment(tmp_path, "http://unset")
    hosts = {"broker": [INTERNAL], "pages": [PAGES]}
    async with proxy_before(tmp_path, hosts, int(variables["BROKER_PORT"])) as proxy:
        variables["BROKER_PUBLIC_URL"] = proxy.public_url
        async with versature_process(f"{proxy.public_url}/oauth/callback") as versature:
            variables["VERSATURE_BASE_URL"] = f"{versature.base_url}/api"
            await furnish(settings_from(variables))
            internal = {**variables, "BROKER_HOST": INTERNAL, "BROKER_ROUTES": "internal"}
            public = {**variables, "BROKER_HOST": PAGES, "BROKER_ROUTES": "public"}
            async with broker_process(internal), broker_process(public), client_of(proxy.internal_url) as crm:
                invitation = (await crm.post("/grants/alice/connect")).raise_for_status().json()
                link = invitation["connect_url"]
                assert link.startswith(f"{proxy.public_url}/connect/")
                assert (await crm.get(f"/connect/{link.rpartition('/')[2]}")).status_code == 404
                async with httpx.AsyncClient(trust_env=False) as http:
                    for path in ("/tokens/alice", "/docs", "/metrics", "/readyz", "/grants"):
                        assert (await http.get(f"{proxy.public_url}{path}")).status_code == 404, path
                    arrival = await Browser(Broker(proxy.public_url, http), http).walk(link, "alice")
                    assert arrival.headers["Location"] == "/connect/done"
                    assert (await http.get(f"{proxy.public_url}/connect/done")).status_code == 200
                    flood = await http.get(f"{proxy.internal_url}/healthz", headers={"X-Flood": "x" * 40_000})
                    assert flood.status_code == 400
                    assert flood.headers["Server"] == "nginx"
                token = (await crm.get("/tokens/alice")).raise_for_status().json()["access_token"]
                assert await versature.whose(token) == "alice"
