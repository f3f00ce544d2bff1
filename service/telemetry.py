"""Logs and metrics: their form, and what never gets into them."""

import logging
import sys
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service import __version__

LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)


class Metrics:
    """The metrics of one application object; two of them in one process never mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.token_requests = self._counter(
            "token_requests",
            "Requests for tokens, by outcome: where the token came from, or the problem's code.",
            "outcome",
        )
        self.requests = self._latency(
            "http_request",
            "Time until the answer of a request began, by route and status.",
            "method",
            "route",
            "status",
        )
        self.upstream = self._latency(
            "upstream_request",
            "Requests to the provider, by grant type (or revocation) and outcome.",
            "grant_type",
            "outcome",
        )
        self.redis = self._counter(
            "redis_operations",
            "Operations on Redis, by outcome: ok, failed, or bypassed while it is in trouble.",
            "operation",
            "outcome",
        )
        self.lost_grants = self._counter(
            "lost_grants",
            "Grants that ended as lost_in_transit: an answer of the provider never reached our first durable write.",
            "application",
        )
        self._state_of_the_house()

    def _state_of_the_house(self) -> None:
        """What is asked of the parts whenever the metrics are read."""
        self.redis_bypassed = self._gauge("redis_bypassed", "1 while Redis is not asked because it failed.")
        self.database_bypassed = self._gauge(
            "database_bypassed", "1 while the database is left alone because it failed."
        )
        self.clock_skew = self._gauge(
            "clock_skew_seconds",
            "The database's clock less this process's, measured at the last claim or readiness check.",
        )
        self.escrow_entries = self._gauge("escrow_entries", "Answers that wait for the database, as far as known.")
        self.escrow_age = self._gauge("escrow_oldest_age_seconds", "For how long the oldest of them waits.")
        self.database_behind = self._gauge(
            "database_behind_grants",
            "Grants found older in the database than elsewhere in the last ten minutes: it went back in time.",
        )
        self.audit_backlog = self._gauge("audit_backlog_entries", "Entries of the audit that are not written yet.")
        self.audit_given_up = self._gauge(
            "audit_given_up_entries",
            "Entries of the audit that were given up while the database was away.",
        )
        self._gauge("build_info", "The running version.", "version").labels(__version__).set(1)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"token_broker_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"token_broker_{name}", what, labels, registry=self.registry)

    def _latency(self, name: str, what: str, *labels: str) -> Histogram:
        return Histogram(
            f"token_broker_{name}_duration_seconds", what, labels, buckets=LATENCIES, registry=self.registry
        )

    def observe_upstream(self, grant_type: str, outcome: str, seconds: float) -> None:
        self.upstream.labels(grant_type, outcome).observe(seconds)

    def count_redis(self, operation: str, outcome: str) -> None:
        self.redis.labels(operation, outcome).inc()

    def count_lane(self, answers: int) -> None:
        self.token_requests.labels("local").inc(answers)

    def count_lost(self, application: str) -> None:
        self.lost_grants.labels(application).inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def configure_logging(level: str, form: str) -> None:
    """Send everything, our own and the libraries', to standard error as JSON lines or for human eyes."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
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
