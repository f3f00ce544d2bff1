"""Somebody whose service needs tokens, with a key and nothing but /docs; and no way to the internet."""

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from tests.e2e.conftest import ARTEFACTS, PATIENCE_MS, Phone, Stage
from tests.support.brokers import KEY

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

_NUMBER = re.compile(r"\d{3}")
USER = "first-ten-minutes"


@dataclass(frozen=True)
class Docs:
    """Swagger UI, used as a person does."""

    page: Page

    async def open(self, address: str) -> None:
        await self.page.goto(f"{address}/docs")
        await expect(self.page.get_by_role("button", name="Authorize", exact=True)).to_be_visible()

    async def authorize(self, key: str) -> None:
        await self.page.get_by_role("button", name="Authorize", exact=True).click()
        dialog = self.page.locator(".dialog-ux")
        await dialog.get_by_label("auth-bearer-value").fill(key)
        await self.keep_screenshot("authorize")
        await dialog.get_by_role("button", name="Apply credentials").click()
        await dialog.get_by_role("button", name="Close").click()

    async def call(self, name: str, body: str | None = None, **parameters: str) -> tuple[int, dict[str, Any]]:
        """Unfold the call, fill it in, press Execute; what the page then shows."""
        operation = self.page.locator(f"[id$='-{name}'].opblock")
        if "is-open" not in (await operation.get_attribute("class") or ""):
            await operation.get_by_role("button").first.click()
        for parameter, value in parameters.items():
            await operation.get_by_placeholder(parameter).fill(value)
        if body is not None:
            await operation.locator(".body-param__text").fill(body)
        if await operation.get_by_role("button", name="Clear").count():
            await operation.get_by_role("button", name="Clear").click()
        await operation.get_by_role("button", name="Execute").click()
        response = operation.locator(".live-responses-table")
        await expect(response.locator(".response-col_status").last).to_have_text(_NUMBER)
        await response.scroll_into_view_if_needed()
        await self.keep_screenshot(name, operation)
        status = await response.locator(".response-col_status").last.inner_text()
        shown = await response.locator(".response-col_description pre").first.inner_text()
        return int(status.split()[0]), json.loads(shown)

    async def keep_screenshot(self, name: str, what: Locator | None = None) -> None:
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        number = len(list(ARTEFACTS.glob("first-*")))
        await (what or self.page).screenshot(path=ARTEFACTS / f"first-{number:02}-{name}.png")


async def test_a_callers_first_ten_minutes(stage: Stage, chromium: Browser, phone: Phone) -> None:
    outside = list[str]()

    async def only_here(route: Route) -> None:
        if route.request.url.startswith((f"{stage.broker.base_url}/", "data:")):
            await route.continue_()
        else:
            outside.append(route.request.url)
            await route.abort()

    for old in ARTEFACTS.glob("first-*"):
        old.unlink()
    async with await chromium.new_context(viewport={"width": 1280, "height": 1400}) as context:
        context.set_default_timeout(PATIENCE_MS)
        await context.route("**/*", only_here)
        docs = Docs(await context.new_page())
        await docs.open(stage.broker.base_url)
        await docs.keep_screenshot("docs")
        status, problem = await docs.call("get_me")
        assert (status, problem["code"]) == (401, "invalid_api_key")
        await docs.authorize(KEY)
        status, me = await docs.call("get_me")
        assert (status, me["name"], me["scopes"]) == (200, "crm", ["grants", "tokens"])
        status, problem = await docs.call("get_token", user=USER)
        assert (status, problem["code"]) == (404, "grant_not_found")
        assert problem["connect"] == {"method": "POST", "href": f"/grants/{USER}/connect?application=default"}
        status, invitation = await docs.call("invite_user", user=USER)
        assert status == 201
        await phone.depart(invitation["connect_url"])
        await phone.decide("bob")
        await phone.sees("You are connected")
        status, first = await docs.call("get_token", user=USER)
        assert (status, await stage.versature.whose(first["access_token"])) == (200, "bob")
        status, second = await docs.call(
            "report_rejected_token", user=USER, body=json.dumps({"access_token": first["access_token"]})
        )
        assert status == 200
        assert await stage.versature.whose(second["access_token"]) == "bob"
        assert second["access_token"] != first["access_token"]
        await docs.open(stage.broker.base_url)
        status, _ = await docs.call("get_me")
        assert status == 200, "the key is still known after a reload"
        await docs.page.goto(f"{stage.broker.base_url}{problem['type']}")
        await expect(docs.page.get_by_role("heading", level=1)).to_have_text(problem["title"])
        await docs.keep_screenshot("problem")
    await phone.page.goto(f"{stage.broker.base_url}/docs")
    await expect(phone.page.get_by_text("A valid access token for a user")).to_be_visible()
    assert await phone.fits()
    await phone.keep_screenshot("first-phone")
    assert outside == []
