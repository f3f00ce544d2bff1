"""A sandbox and a broker as processes, and a headless Chromium in front of them."""

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, ViewportSize, async_playwright, expect

from sandbox.directory import USERS
from tests.support.brokers import Broker, broker_process, environment, furnish, settings_from
from tests.support.versatures import Versature, versature_process

FLAGS = [
    "--no-sandbox",  # Chromium refuses to sandbox itself when root starts it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
PATIENCE_MS = 10_000
PHONE = ViewportSize(width=390, height=844)
ARTEFACTS = Path(__file__).parents[2] / ".artefacts" / "browser"


@dataclass(frozen=True)
class Stage:
    """What the browser meets; everything listens on loopback."""

    broker: Broker
    versature: Versature
    folder: Path

    @property
    def log(self) -> Path:
        """What the broker has logged, at its most talkative."""
        return self.folder / "broker.log"


@dataclass(frozen=True)
class Phone:
    """A browser without any past, on a screen of a phone's width, and what it had to complain about."""

    context: BrowserContext
    page: Page
    complaints: list[str]

    async def depart(self, link: str) -> None:
        """Open *link* and go on to the provider."""
        await self.page.goto(link)
        await self.page.get_by_role("button", name="Log in at Versature").click()

    async def decide(self, login: str, decision: str = "Allow") -> None:
        """Log in at the provider and press one of its buttons."""
        await self.page.get_by_label("User").fill(login)
        await self.page.get_by_label("Password").fill(USERS[login])
        await self.page.get_by_role("button", name=decision).click()

    async def sees(self, heading: str) -> None:
        """Wait until the page has this *heading*."""
        await expect(self.page.get_by_role("heading", level=1)).to_have_text(heading)

    async def keep_screenshot(self, name: str) -> None:
        """Keep what is seen in an ignored folder, for people to look at."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)

    async def fits(self) -> bool:
        """Whether nothing of the page lies beyond the edge of the screen."""
        fits: bool = await self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        return fits


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    port = environment(folder, "http://unset")["BROKER_PORT"]
    async with versature_process(f"http://127.0.0.1:{port}/oauth/callback") as versature:
        own = {"BROKER_PORT": port, "BROKER_RETURN_ORIGINS": versature.base_url, "BROKER_LOG_LEVEL": "debug"}
        variables = environment(folder, versature.base_url, **own)
        await furnish(settings_from(variables))
        with (folder / "broker.log").open("wb") as log:
            async with broker_process(variables, log=log) as broker:
                yield Stage(broker, versature, folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    program = shutil.which("chromium")
    assert program is not None, "chromium is not on PATH: make test-browser"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def phone(chromium: Browser) -> AsyncIterator[Phone]:
    async with await chromium.new_context(viewport=PHONE, device_scale_factor=2) as context:
        context.set_default_timeout(PATIENCE_MS)
        page, complaints = await context.new_page(), list[str]()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield Phone(context, page, complaints)
