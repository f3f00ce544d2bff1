"""deploy/nginx/nginx.conf as it is deployed: a broker for services and one for browsers behind it."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.support.brokers import Broker, broker_process, client_of, environment, furnish, settings_from
from tests.support.browser import Browser
from tests.support.ports import free_port
from tests.support.programs import needs_nginx
from tests.support.proxy import proxy_before
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
                    for lines, size, status in ((4, 8_000, 200), (1, 9_000, 400), (5, 8_000, 400)):
                        headers = {f"X-Flood-{line}": "x" * size for line in range(lines)}
                        flood = await http.get(f"{proxy.internal_url}/healthz", headers=headers)
                        assert flood.status_code == status, (lines, size)
                token = (await crm.get("/tokens/alice")).raise_for_status().json()["access_token"]
                assert await versature.whose(token) == "alice"


@needs_nginx
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST", "PATCH"])
async def test_what_a_replica_did_not_answer_goes_to_the_next_if_it_may_be_done_twice(
    tmp_path: Path, method: str
) -> None:
    """Both replicas take the request and hang up: no one else is asked, or every one of them once."""
    taken: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    port, hosts = free_port(), (INTERNAL, PAGES)
    replicas = [await asyncio.start_server(take, host, port) for host in hosts]
    async with proxy_before(tmp_path, {"broker": hosts}, port) as proxy, client_of(proxy.internal_url) as crm:
        assert (await crm.request(method, "/callers/crm")).status_code == 502
    for replica in replicas:
        replica.close()
    assert len(taken) == (1 if method in {"POST", "PATCH"} else len(hosts))


@needs_nginx
@pytest.mark.parametrize("listed", [False, True], ids=["from-the-resolver", "listed"])
async def test_a_replica_that_came_back_is_asked_at_once(tmp_path: Path, listed: bool) -> None:
    """First one of two is replaced, then the other: at no moment is there nobody whom nginx would ask."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    port, hosts = free_port(), (INTERNAL, PAGES)
    async with (
        proxy_before(tmp_path, {"broker": hosts}, port, listed=listed) as proxy,
        client_of(proxy.internal_url) as crm,
    ):
        for host in hosts:
            replica = await asyncio.start_server(answer, host, port)
            answers = [(await crm.get("/tokens/alice")).status_code for _ in range(len(hosts))]
            replica.close()
            await replica.wait_closed()
            assert answers == [204, 204], host
