"""The OpenAPI document, what runs behind it, and which routes exist at all."""

import asyncio
import base64
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from fastapi.routing import APIRoute
from jsonschema_rs import Draft202012Validator
from starlette.routing import BaseRoute, Match

from service.api.application import build_api
from service.core.model import Scope
from tests.api.front import Front, code_of, front_in

HERE = Path(__file__).parent
COMMITTED = HERE.parents[1] / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(COMMITTED.read_text())
OPERATIONS = {
    "GET /tokens/{user}": "get_token",
    "POST /tokens/{user}/rejected": "report_rejected_token",
    "GET /me": "get_me",
    "POST /grants/{user}/connect": "invite_user",
    "GET /grants": "list_grants",
    "GET /grants/{user}": "get_grant",
    "PUT /grants/{user}": "import_grant",
    "DELETE /grants/{user}": "revoke_grant",
    "GET /applications": "list_applications",
    "POST /applications": "add_application",
    "GET /applications/{name}": "get_application",
    "PATCH /applications/{name}": "change_application",
    "DELETE /applications/{name}": "remove_application",
    "PUT /applications/{name}/default": "set_default_application",
    "GET /callers": "list_callers",
    "POST /callers": "add_caller",
    "GET /callers/{name}": "get_caller",
    "PATCH /callers/{name}": "change_caller",
    "DELETE /callers/{name}": "remove_caller",
    "GET /callers/{name}/keys": "list_keys",
    "POST /callers/{name}/keys": "add_key",
    "GET /audit": "list_audit",
    "DELETE /callers/{name}/keys/{key_id}": "remove_key",
    "GET /healthz": "get_health",
    "GET /readyz": "get_readiness",
    "GET /metrics": "get_metrics",
}
KEYLESS = {"get_health", "get_readiness", "get_metrics"}


def operations() -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }


def test_the_committed_document_is_the_generated_one() -> None:
    assert COMMITTED.read_text() == json.dumps(build_api("all").openapi(), indent=2, ensure_ascii=False) + "\n"


def test_operations_keep_their_ids() -> None:
    assert {call: operation["operationId"] for call, operation in operations().items()} == OPERATIONS


def test_every_operation_but_the_operators_own_wants_the_key() -> None:
    keyless = {operation["operationId"] for operation in operations().values() if "security" not in operation}
    assert keyless == KEYLESS
    (scheme,) = DOCUMENT["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


def test_every_operation_and_parameter_is_described() -> None:
    for call, operation in operations().items():
        assert operation["summary"], call
        assert operation["description"], call


def test_nothing_documented_is_unused_and_no_reference_is_broken() -> None:
    text = COMMITTED.read_text()
    for name in DOCUMENT["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, name
    for reference in set(json.dumps(DOCUMENT).split('"#/components/schemas/')[1:]):
        assert reference.partition('"')[0] in DOCUMENT["components"]["schemas"]


def conforms(call: str, answer: httpx.Response) -> None:
    """Whether the document knows this status, this media type, and this shape."""
    responses = operations()[call]["responses"]
    assert str(answer.status_code) in responses, (call, answer.text)
    content = responses[str(answer.status_code)].get("content", {})
    if answer.status_code == 204:
        assert (content, answer.content) == ({}, b"")
        return
    media_type = answer.headers["Content-Type"].partition(";")[0]
    if call == "GET /metrics":
        assert media_type == "text/plain"
        return
    assert list(content) == [media_type], call
    schema = {**content[media_type]["schema"], "components": DOCUMENT["components"]}
    Draft202012Validator(schema, validate_formats=True).validate(answer.json())


async def test_every_good_answer_of_the_running_broker_has_the_documented_shape(front: Front) -> None:
    minted = await front.hold("alice")
    seen = set()

    async def ask(call: str, path: str, status: int, **content: Any) -> None:
        answer = await front.client.request(call.partition(" ")[0], path, **content)
        assert answer.status_code == status, (call, answer.text)
        conforms(call, answer)
        seen.add(call)

    await ask("GET /tokens/{user}", "/tokens/alice", 200)
    await ask("GET /tokens/{user}", "/tokens/@company", 200)
    report = {"access_token": minted["access_token"]}
    await ask("POST /tokens/{user}/rejected", "/tokens/alice/rejected", 200, json=report)
    await ask("GET /me", "/me", 200)
    await ask("POST /grants/{user}/connect", "/grants/bob/connect", 201)
    await ask("PUT /grants/{user}", "/grants/bob", 201, json={"refresh_token": "a"})
    await ask("PUT /grants/{user}", "/grants/bob", 200, json={"refresh_token": "a"})
    await front.versature.switch(fault="refused_without_code", fault_times=1)
    await front.client.get("/tokens/bob")
    await ask("GET /grants/{user}", "/grants/bob", 200)
    await ask("GET /grants/{user}", "/grants/alice", 200)
    await ask("GET /grants", "/grants?limit=1", 200)
    await ask("DELETE /grants/{user}", "/grants/alice", 200)
    await ask("GET /grants", "/grants?state=revoked", 200)
    for path in ("/healthz", "/readyz", "/metrics"):
        await ask(f"GET {path}", path, 200)
    operator = await front.admit("operator", Scope.ADMIN)
    for call in [call for call in OPERATIONS if call not in seen]:
        (request,) = [row for row in MANAGING if row[0] == call]
        await ask(call, *request[1:3], **request[3], headers=operator)
    assert seen == set(OPERATIONS)


APPLICATION = {"name": "a", "client_id": "i", "client_secret": "s", "grant_types": ["authorization_code"]}
# In the order of `OPERATIONS`, except that what was added is removed at last.
MANAGING: list[tuple[str, str, int, dict[str, Any]]] = [
    ("GET /applications", "/applications", 200, {}),
    ("POST /applications", "/applications", 201, {"json": APPLICATION}),
    ("GET /applications/{name}", "/applications/default", 200, {}),
    ("PATCH /applications/{name}", "/applications/a", 200, {"json": {"vendor_id": None, "client_secret": "n"}}),
    ("DELETE /applications/{name}", "/applications/a", 204, {}),
    ("PUT /applications/{name}/default", "/applications/default/default", 200, {}),
    ("GET /callers", "/callers?limit=1", 200, {}),
    ("POST /callers", "/callers", 201, {"json": {"name": "a", "scopes": ["admin"]}}),
    ("GET /callers/{name}", "/callers/a", 200, {}),
    ("PATCH /callers/{name}", "/callers/a", 200, {"json": {"users": ["*"]}}),
    ("DELETE /callers/{name}", "/callers/a", 204, {}),
    ("GET /callers/{name}/keys", "/callers/operator/keys", 200, {}),
    ("POST /callers/{name}/keys", "/callers/operator/keys", 201, {"json": {"expires_in": 60}}),
    ("GET /audit", "/audit?limit=3", 200, {}),
    ("DELETE /callers/{name}/keys/{key_id}", "/callers/operator/keys/first", 204, {}),
]


async def test_problems_have_the_documented_shape(front: Front) -> None:
    await front.hold("gone")
    await front.client.delete("/grants/gone")
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET /tokens/{user}", "/tokens/bob", {}),
        ("GET /tokens/{user}", "/tokens/gone", {}),
        ("GET /tokens/{user}", "/tokens/@x", {}),
        ("GET /tokens/{user}", "/tokens/bob?application=x", {}),
        ("GET /tokens/{user}", "/tokens/bob?nope=1", {}),
        ("GET /me", "/me", {"headers": {"Authorization": "nobody"}}),
        ("PUT /grants/{user}", "/grants/bob", {"content": b"x"}),
        ("PUT /grants/{user}", "/grants/bob", {"content": b"x" * 70_000}),
        ("PUT /grants/{user}", "/grants/bob", {"json": {}}),
    ]
    for call, path, content in requests:
        conforms(call, await front.client.request(call.partition(" ")[0], path, **content))


async def test_the_running_broker_shows_the_committed_document(front: Front) -> None:
    assert (await front.bare("GET", "/openapi.json")).json() == DOCUMENT


@pytest.mark.crash
@pytest.mark.parametrize(("key", "examples"), [("everything", 20), ("nothing", 2), (None, 2)])
async def test_no_generated_request_breaks_the_contract(
    front: Front, tmp_path: Path, key: str | None, examples: int
) -> None:
    """Schemathesis with all its checks, over TCP, with a key that may do everything, nothing, and with none at all."""
    await front.hold("alice")
    await front.admit("everything", *Scope, users=("*", "@company"))
    await front.admit("nothing", Scope.TOKENS, users=("nobody",))
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "schemathesis"),
        f"--config-file={HERE / 'schemathesis.toml'}",
        "run",
        str(COMMITTED),
        f"--url={front.broker.base_url}",
        *([f"--header=Authorization: Bearer vtb_{key}"] if key else []),
        "--checks=all",
        f"--max-examples={examples}",
        "--seed=1",
        "--generation-database=none",
        "--continue-on-failure",
        "--no-color",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    told = output.decode()
    assert process.returncode == 0, told
    assert f"Operations:       {len(OPERATIONS)} selected / {len(OPERATIONS)} total" in told
    assert "No issues found" in told or key != "everything"
    me = await front.client.get("/me", headers={"Authorization": "Bearer vtb_everything"})
    assert me.status_code == 200, "the generated requests removed their own key"


class Addresses(HTMLParser):
    """Everything that a page makes a browser load or go to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"src", "href", "action", "data", "poster", "srcset", "formaction"}
        self.found |= {value for name, value in attrs if name in names and value}


async def test_swagger_ui_loads_nothing_from_outside(front: Front) -> None:
    docs = await front.bare("GET", "/docs")
    assert docs.status_code == 200
    page = Addresses()
    page.feed(docs.text)
    assert any(address.endswith(".js") for address in page.found)
    assert any(address.endswith(".css") for address in page.found)
    host = urlsplit(front.broker.base_url).netloc
    for address in page.found:
        url = urljoin(f"{front.broker.base_url}/docs", address)
        assert urlsplit(url).netloc == host, address
        asset = await front.bare("GET", url)
        assert asset.status_code == 200, address
        assert asset.content
        if address.endswith(".css"):
            assert not [
                rule for rule in asset.text.split("url(")[1:] if not rule.startswith(("data:", '"data:', "'data:"))
            ]
            assert "@import" not in asset.text
    assert "http://" not in docs.text
    assert "https://" not in docs.text
    assert "/openapi.json" in docs.text


async def test_swagger_ui_runs_its_own_script_only_and_is_not_framed(front: Front) -> None:
    docs = await front.bare("GET", "/docs")
    headers = {
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
    assert {name: docs.headers.get(name) for name in headers} == headers
    policy = dict(part.strip().partition(" ")[::2] for part in docs.headers["Content-Security-Policy"].split(";"))
    [script] = re.findall("<script>(.*?)</script>", docs.text, re.DOTALL)
    assert policy["script-src"] == f"'self' 'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}'"
    for kind in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy[kind] == "'none'", kind
    assert policy["connect-src"] == "'self'"
    assert '"persistAuthorization": true' in docs.text


OPERATORS = {"/readyz", "/metrics", "/problems/conflict", "/docs", "/openapi.json"}
CALLS = {"/tokens/a", "/tokens/a/rejected", "/grants", "/grants/a", "/grants/a/connect", "/me"}
MANAGED = {
    *("/applications", "/applications/a", "/applications/a/default"),
    *("/callers", "/callers/a", "/callers/a/keys", "/callers/a/keys/b"),
    "/audit",
}
BROWSERS = {"/connect/ticket", "/connect/done", "/oauth/callback"}
ASSET = "/static-offline-docs/swagger-ui-bundle.js"
EVERYTHING = {"/healthz", ASSET} | OPERATORS | CALLS | MANAGED | BROWSERS
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
NOTHING_THERE = (404, "not_found")
EXPOSED = {
    "all": EVERYTHING,
    "internal": EVERYTHING - BROWSERS,
    "public": {"/healthz"} | BROWSERS,
}


def test_nothing_that_a_route_depends_on_is_taken_to_a_thread() -> None:
    """FastAPI does that to every function that is not async: it costs more than a token from the database."""
    routers = build_api("all").state.routers
    waiting = [route.dependant for router in routers for route in router.routes if isinstance(route, APIRoute)]
    calls: set[Any] = set()
    while waiting:
        dependant = waiting.pop()
        waiting += dependant.dependencies
        calls.add(dependant.call)
    assert len(calls) > 20
    asynchronous = (call if inspect.isroutine(call) else type(call).__call__ for call in calls)
    assert [call for call in asynchronous if not inspect.iscoroutinefunction(call)] == []


@pytest.mark.parametrize("routes", EXPOSED)
async def test_a_deployment_exposes_exactly_its_routes(tmp_path: Path, routes: str) -> None:
    async with front_in(tmp_path, BROKER_ROUTES=routes) as front:
        found = {path: {code_of(await front.client.request(method, path)) for method in METHODS} for path in EVERYTHING}
        shown = await front.client.get("/openapi.json")
    assert {path for path, answers in found.items() if answers != {NOTHING_THERE}} == EXPOSED[routes]
    assert {path for path, answers in found.items() if NOTHING_THERE in answers} == EVERYTHING - EXPOSED[routes]
    if routes == "public":
        assert code_of(shown) == NOTHING_THERE
    else:
        assert {template for template in shown.json()["paths"] if "{" not in template} <= EXPOSED[routes]


@pytest.mark.parametrize("routes", EXPOSED)
def test_no_deployment_has_a_route_that_the_table_does_not_know(routes: Any) -> None:
    scopes = [{"type": "http", "path": path, "method": "GET", "headers": []} for path in EXPOSED[routes]]
    found = list(unwrapped(build_api(routes).routes))
    assert found
    assert [route for route in found if all(route.matches(dict(scope))[0] is Match.NONE for scope in scopes)] == []


def unwrapped(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """The routes themselves, out of the routers that the framework wraps them in."""
    for route in routes:
        router = getattr(route, "original_router", None)
        yield from [route] if router is None else unwrapped(router.routes)
