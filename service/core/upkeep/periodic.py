"""Work that comes round again and again, whatever happened the last time."""

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from service.core.clock import Clock
from service.core.errors import StoreUnavailable

log = logging.getLogger(__name__)


async def every(
    period: timedelta, work: Callable[[], Awaitable[object]], clock: Clock, what: str, *, at_once: bool = False
) -> None:
    """Do *work* after each *period* until cancelled, and before the first *at_once*. *what* it is goes to the log."""
    pause = timedelta(0) if at_once else period
    while True:
        await clock.sleep(pause)
        pause = period
        try:
            await work()
        except StoreUnavailable:
            log.warning("periodic work was left out: the database is away", extra={"what": what})
        except Exception:
            log.exception("periodic work crashed", extra={"what": what})
