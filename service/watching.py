"""Lets readiness and metrics see every part."""

from datetime import timedelta

from service.adapters.keyring import AesKeyring
from service.adapters.redis_cache import RedisTokenCache
from service.adapters.sql_database import Database
from service.adapters.sql_health import DatabaseHealth
from service.core.audit import Audit
from service.core.clock import Clock
from service.core.custody import Custody
from service.core.directory import Directory
from service.core.health import Health
from service.core.recovery import Recovery
from service.core.skew import ClockSkew
from service.telemetry import Metrics


def watch(
    health: Health,
    metrics: Metrics,
    database: Database,
    database_health: DatabaseHealth,
    directory: Directory,
    keyring: AesKeyring,
    redis: RedisTokenCache | None,
    skew: ClockSkew,
) -> None:
    """The parts that are there from the beginning."""
    health.register("database", database_health.database)
    health.register("clock", database_health.clock)
    health.register("durability", database_health.durability)
    health.register("callers", directory.health)
    health.register("keys", keyring.health)
    if redis is not None:
        health.register("redis", redis.health)
        metrics.redis_bypassed.set_function(lambda: redis.is_bypassed)
    metrics.database_bypassed.set_function(lambda: database.is_bypassed)
    metrics.clock_skew.set_function(lambda: skew.last / timedelta(seconds=1))


def watch_safety(
    health: Health, metrics: Metrics, custody: Custody, recovery: Recovery, audit: Audit, clock: Clock
) -> None:
    """What waits for the database, and a database that is older than it was."""
    metrics.audit_backlog.set_function(lambda: audit.backlog)
    metrics.audit_given_up.set_function(lambda: audit.given_up)
    health.register("escrow", custody.health)
    health.register("history", recovery.health)
    metrics.escrow_entries.set_function(lambda: custody.count)
    metrics.escrow_age.set_function(
        lambda: 0.0 if custody.oldest_at is None else (clock.now() - custody.oldest_at) / timedelta(seconds=1)
    )
    metrics.database_behind.set_function(lambda: recovery.alarms)
