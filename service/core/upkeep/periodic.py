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
    """Do *work* after each *period* until cancelled, and before the first *at_once*. *what* it is goes to the log.

    A database that is away is told when that begins and when it is over, however often the work comes round meanwhile.
    """
    pause, away = timedelta(0) if at_once else period, False
    while True:
        await clock.sleep(pause)
        pause, was_away = period, away
        try:
            await work()
            away = False
        except StoreUnavailable:
            away = True
        except Exception:
            log.exception("periodic work crashed", extra={"what": what})
        if away and not was_away:
            log.warning("periodic work is left out while the database is away", extra={"what": what})
        elif was_away and not away:
            log.info("periodic work goes on", extra={"what": what})
