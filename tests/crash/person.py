"""A person with a browser: sent to the broker with a code, and told what to do when that goes wrong."""

import asyncio
from dataclasses import dataclass, field

import httpx

from tests.crash.stage import Stage
from tests.support.brokers import Broker
from tests.support.browser import Browser, invite

LOGIN = "alice"
ADVICE = ("Open the link that you were given again", "Open your link again", "tries again by itself")
TRIES, PAUSE_SECONDS = 20, 0.2


@dataclass(frozen=True, slots=True)
class Page:
    """What the browser showed after the callback."""

    status: int
    text: str = field(repr=False)

    @property
    def is_done(self) -> bool:
        return self.status == 303


@dataclass(slots=True)
class Person:
    """Holds a link that connects *user*, and the callback that the provider has just sent the browser to."""

    stage: Stage
    user: str
    http: httpx.AsyncClient
    link: str = field(repr=False)
    callback: str = field(repr=False)
    pages: list[Page] = field(default_factory=list)

    @classmethod
    async def logged_in(cls, stage: Stage, user: str, http: httpx.AsyncClient) -> "Person":
        """Somebody who has agreed at the provider, and whose browser has yet to come back to us."""
        link = await invite(stage.steady, user)
        return cls(stage, user, http, link, await _log_in(Browser(stage.steady, http), link))

    async def arrive(self, broker: Broker, patience: float) -> Page | None:
        """Open the callback, or press reload; None when there was no answer within *patience*."""
        try:
            async with asyncio.timeout(patience):
                answer = await Browser(broker, self.http).open(self.callback)
        except (TimeoutError, httpx.TransportError):
            return None
        page = Page(answer.status_code, answer.text)
        self.pages.append(page)
        return page

    async def try_again(self) -> Page:
        """The whole trip once more, over the same link, as the page said."""
        self.callback = await _log_in(Browser(self.stage.steady, self.http), self.link)
        page = await self.arrive(self.stage.steady, 10)
        assert page is not None
        return page

    def must_have_been_told_what_to_do(self) -> None:
        for page in self.pages:
            if not page.is_done:
                assert page.status in {400, 502, 503}, page.status
                assert any(advice in " ".join(page.text.split()) for advice in ADVICE), page.text


async def _log_in(browser: Browser, link: str) -> str:
    """The callback's address; a page that asks for patience gets it."""
    departure = await browser.depart(link)
    for _ in range(TRIES):
        if departure.status_code != 503:
            break
        await asyncio.sleep(PAUSE_SECONDS)
        departure = await browser.depart(link)
    assert departure.status_code == 303, departure.text
    return await browser.decide(LOGIN, departure)
