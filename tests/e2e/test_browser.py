"""The connect flow and Swagger UI in a real Chromium."""

from urllib.parse import quote

import pytest
from playwright.async_api import Browser, Route, expect

from sandbox.directory import USERS
from tests.e2e.conftest import ARTEFACTS, PATIENCE_MS, Phone, Stage
from tests.support.brokers import KEY
from tests.support.browser import invite

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_a_person_on_a_phone_connects_and_the_service_gets_a_working_token(stage: Stage, phone: Phone) -> None:
    await phone.page.goto(await invite(stage.broker, "alice"))
    await phone.sees("Connect alice to Versature")
    await expect(phone.page.get_by_text("Asked by crm")).to_be_visible()
    assert await phone.fits()
    await phone.keep_screenshot("1-connect")
    await phone.page.get_by_role("button", name="Log in at Versature").click()
    await phone.sees("Log in to Versature")
    assert await phone.fits()
    await phone.keep_screenshot("2-login")
    [cookie] = await phone.context.cookies(stage.broker.base_url)
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("tb-connect", True, "Lax")
    assert (await stage.broker.client.get("/tokens/alice")).status_code == 404
    await phone.decide("alice")
    await phone.sees("You are connected")
    assert await phone.fits()
    await phone.keep_screenshot("3-done")
    assert phone.complaints == []
    token = (await stage.broker.client.get("/tokens/alice")).raise_for_status().json()["access_token"]
    assert await stage.versature.whose(token) == "alice"


async def test_the_whole_way_can_be_gone_with_the_keyboard(stage: Stage, phone: Phone) -> None:
    keyboard = phone.page.keyboard
    await phone.page.goto(await invite(stage.broker, "keyboard"))
    await keyboard.press("Tab")
    button = phone.page.get_by_role("button", name="Log in at Versature")
    await expect(button).to_be_focused()
    assert await button.evaluate("focused => getComputedStyle(focused).outlineColor") == "rgb(0, 0, 0)", "seen on white"
    await phone.keep_screenshot("1-connect-focused")
    await keyboard.press("Enter")
    await phone.sees("Log in to Versature")
    await phone.page.get_by_label("User").focus()
    await keyboard.type("bob")
    await keyboard.press("Tab")
    await keyboard.type(USERS["bob"])
    await keyboard.press("Enter")
    await phone.sees("You are connected")


async def test_the_done_page_is_left_to_the_address_that_the_service_wanted(stage: Stage, phone: Phone) -> None:
    back = f"{stage.versature.base_url}/sandbox/calls?endpoint=api"
    await phone.depart(await invite(stage.broker, "returning", {"return_to": back}))
    await phone.decide("carol")
    await expect(phone.page).to_have_url(f"{back}&status=connected")
    await phone.depart(await invite(stage.broker, "returning", {"return_to": back}))
    await phone.decide("carol", "Deny")
    await expect(phone.page).to_have_url(f"{back}&status=failed&code=authorization_denied")


async def test_another_browser_cannot_complete_a_login_and_the_first_one_can_start_again(
    stage: Stage, phone: Phone, chromium: Browser
) -> None:
    link, callbacks = await invite(stage.broker, "victim"), list[str]()

    async def keep(route: Route) -> None:
        answer = await route.fetch(max_redirects=0)
        callbacks.append(answer.headers["location"])
        await route.fulfill(body="kept")

    await phone.page.route("**/oauth/authorize/", keep)
    await phone.depart(link)
    await phone.decide("alice")
    await expect(phone.page.get_by_text("kept")).to_be_visible()
    async with await chromium.new_context() as other:
        page = await other.new_page()
        answer = await page.goto(callbacks[0])
        assert answer is not None
        assert answer.status == 400
        await expect(page.get_by_text("started in another browser")).to_be_visible()
    assert (await stage.broker.client.get("/tokens/victim")).status_code == 404
    await phone.page.unroute("**/oauth/authorize/")
    await phone.depart(link)
    await phone.decide("alice")
    await phone.sees("You are connected")


async def test_a_denied_login_says_what_to_do_and_its_link_still_works(stage: Stage, phone: Phone) -> None:
    link = await invite(stage.broker, "hesitant")
    await phone.depart(link)
    await phone.decide("alice", "Deny")
    await phone.sees("Access was not granted")
    await expect(phone.page.get_by_text("Open your link again")).to_be_visible()
    assert await phone.fits()
    await phone.keep_screenshot("4-denied")
    assert (await stage.broker.client.get("/tokens/hesitant")).status_code == 404
    await phone.depart(link)
    await phone.decide("alice")
    await phone.sees("You are connected")
    await phone.page.goto(link)
    await phone.sees("This link is no longer valid")
    await phone.keep_screenshot("5-used")


@pytest.mark.parametrize(
    ("name", "user"),
    [
        ("long", "w" * 255),
        ("markup", "<b>bold<img src=x onerror=document.title='run'>"),
        ("right-to-left", "\u05d0\u202e."),
    ],
)
async def test_any_user_is_shown_as_text_and_fits_the_screen(stage: Stage, phone: Phone, name: str, user: str) -> None:
    await phone.page.goto(await invite(stage.broker, quote(user, safe="")))
    await phone.sees(f"Connect {user} to Versature")
    await expect(phone.page).to_have_title(f"Connect {user} to Versature")
    assert await phone.fits()
    shown = phone.page.locator("em, strong", has_text=user)
    await expect(shown).to_have_count(2)
    for place in await shown.all():
        assert await place.evaluate("element => getComputedStyle(element).unicodeBidi") == "isolate"
    await phone.keep_screenshot(f"6-{name}")
    assert phone.complaints == []


async def test_pages_are_readable_in_the_dark(stage: Stage, phone: Phone) -> None:
    await phone.page.emulate_media(color_scheme="dark")
    await phone.page.goto(await invite(stage.broker, "alice"))
    light = "getComputedStyle(document.documentElement).colorScheme"
    assert "dark" in await phone.page.evaluate(light)
    await phone.keep_screenshot("7-dark")


async def test_swagger_ui_works_without_the_internet(stage: Stage, chromium: Browser) -> None:
    [minted] = await stage.versature.mint("swagger")
    await stage.broker.client.put("/grants/swagger", json={"refresh_token": minted["refresh_token"]})
    outside, complaints = list[str](), list[str]()

    async def only_here(route: Route) -> None:
        if route.request.url.startswith((f"{stage.broker.base_url}/", "data:")):
            await route.continue_()
        else:
            outside.append(route.request.url)
            await route.abort()

    async with await chromium.new_context(viewport={"width": 1280, "height": 1000}) as context:
        context.set_default_timeout(PATIENCE_MS)
        await context.route("**/*", only_here)
        page = await context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        await page.goto(f"{stage.broker.base_url}/docs")
        await page.get_by_role("button", name="Authorize", exact=True).click()
        dialog = page.locator(".dialog-ux")
        await dialog.get_by_label("auth-bearer-value").fill(KEY)
        await dialog.get_by_role("button", name="Apply credentials").click()
        await dialog.get_by_role("button", name="Close").click()
        operation = page.locator("#operations-tokens-get_token")
        await operation.get_by_role("button").first.click()
        await operation.get_by_placeholder("user").fill("swagger")
        await operation.get_by_role("button", name="Execute").click()
        response = operation.locator(".live-responses-table")
        await expect(response.locator(".response-col_status").last).to_have_text("200")
        await expect(response.get_by_text("access_token")).to_be_visible()
        await page.screenshot(path=ARTEFACTS / "8-swagger.png")
    assert (outside, complaints) == ([], []), "the policy allows all that the page does"
