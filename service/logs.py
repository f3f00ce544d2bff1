"""Logs: their form, and what never gets into them."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog


def _without_colours(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Uvicorn says some things a second time, for terminals."""
    event.pop("color_message", None)
    return event


def configure_logging(level: str, form: str) -> None:
    """Send everything, our own and the libraries', to standard error as JSON lines or for human eyes."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _without_colours,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks without local variables: those may hold secrets.
    renderer: list[Any] = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    if form == "json":
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These narrate every request and statement, with addresses and parameters that are nobody's business.
    for chatty in ("httpx", "httpcore", "sqlalchemy", "aiosqlite", "alembic", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
