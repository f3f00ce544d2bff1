"""Whether a provider can be reached at all: a request that carries nothing, so that nothing can come of it."""

import asyncio
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from service.core.clock import Clock

PATIENCE = timedelta(seconds=5)


class Unreachable(Exception):
    """No HTTP answer came; the message names the kind of failure and nothing else."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Some HTTP answer; `skew` is the provider's clock less ours, to the second, where it tells the time."""

    status: int
    skew: timedelta | None


async def reach(url: str, clock: Clock) -> Reached:
    """Ask for *url* by HEAD, without credentials; any HTTP answer will do.

    Raises:
        Unreachable: there was none in time.
    """
    try:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            async with _client() as client:
                answer = await client.head(url)
    except TimeoutError:
        raise Unreachable(f"no answer within {PATIENCE.total_seconds():g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, ssl.SSLError, OSError) as failure:
        raise Unreachable(_kind(failure)) from None
    return Reached(answer.status_code, _skew(answer.headers.get("Date"), clock.now()))


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        follow_redirects=False,
        timeout=PATIENCE.total_seconds(),
        headers={"User-Agent": "token-broker doctor"},
        event_hooks={"response": [_lead_nowhere]},
    )


async def _lead_nowhere(response: httpx.Response) -> None:
    """Take away what httpx makes a next request of, though it sends none: on a malformed `Location` it fails."""
    response.headers.pop("Location", None)


def _kind(failure: Exception) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(failure):
        return "its certificate is not trusted here"
    return type(failure).__name__


def _skew(date: str | None, now: datetime) -> timedelta | None:
    if date is None:
        return None
    try:
        told = parsedate_to_datetime(date)
    except (ValueError, TypeError):
        return None
    return (told if told.tzinfo else told.replace(tzinfo=UTC)) - now
