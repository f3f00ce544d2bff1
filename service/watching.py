"""Lets readiness and metrics see every part."""

from datetime import timedelta

from service.adapters.keyring import AesKeyring
from service.adapters.redis_cache import RedisTokenCache
from service.adapters.sql_database import Database
from service.adapters.sql_health import DatabaseHealth
from service.core.assembly import Core
from service.core.audit import Audit
from service.core.clock import Clock
from service.core.condition.health import Health
from service.core.condition.skew import ClockSkew
from service.core.directory import Directory
from service.core.escrow.custody import Custody
from service.core.escrow.recovery import Recovery
from service.core.model import GrantState, GrantType
from service.core.upkeep.census import ENDING_WITHIN, Census, Count
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
    metrics.ask(
        "part_state",
        "1 for the state in which each part was found: ready, degraded or not_ready; asked every ten seconds.",
        ("part", "state"),
        lambda: [((name, part.readiness), 1.0) for name, part in health.last_parts.items()],
    )
    metrics.database_bypassed.set_function(lambda: database.is_bypassed)
    metrics.clock_skew.set_function(lambda: skew.last / timedelta(seconds=1))


def watch_core(
    metrics: Metrics, core: Core, directory: Directory, keyring: AesKeyring, census: Census, *, renews: bool
) -> None:
    """What the core and the keyring have to tell; *renews* False where grants are never renewed ahead of need."""
    metrics.local_entries.set_function(lambda: len(core.local))
    metrics.missing_keys.set_function(lambda: len(keyring.missing))
    metrics.ask(
        "open_circuits",
        "1 for every application and grant type for which the provider is left alone, but for a probe.",
        ("application", "grant_type"),
        lambda: [
            ((application.name, grant_type), 1.0)
            for application in directory.applications
            for grant_type in GrantType
            if core.breaker.room(application, grant_type) is not None
        ],
    )
    metrics.ask(
        "sealing_key_info",
        "1 for every sealing key that is here: the one that seals, and those that only open.",
        ("key_id", "use"),
        lambda: [((id_, "opens" if place else "seals"), 1.0) for place, id_ in enumerate(keyring.key_ids)],
    )
    _watch_grants(metrics, census, renews=renews)


def _watch_grants(metrics: Metrics, census: Census, *, renews: bool) -> None:
    """What was counted of all grants, by application; the same in every replica."""

    def connected() -> list[Count]:
        return [count for count in census.counts if count.state is GrantState.CONNECTED]

    def active() -> list[Count]:
        return connected() if renews else []

    metrics.ask(
        "grants",
        "Grants that were ever connected or imported, counted once a minute; of the whole fleet.",
        ("application", "state"),
        lambda: [((count.application, count.state), float(count.grants)) for count in census.counts],
    )
    metrics.ask(
        "refresh_tokens_ending",
        "Connected grants whose refresh token ends within so many days; of the whole fleet.",
        ("application", "days"),
        lambda: [
            ((count.application, str(within.days)), float(number))
            for count in connected()
            for within, number in zip(ENDING_WITHIN, count.ending, strict=True)
        ],
    )
    metrics.ask(
        "active_grants",
        "Grants that the background keeps renewed because callers ask for them; of the whole fleet.",
        ("application",),
        lambda: [((count.application,), float(count.active)) for count in active()],
    )
    metrics.ask(
        "background_lag_seconds",
        "For how long the oldest due grant has been waiting for the background; of the whole fleet.",
        ("application",),
        lambda: [((count.application,), census.lag(count) / timedelta(seconds=1)) for count in active()],
    )


def watch_safety(
    health: Health, metrics: Metrics, custody: Custody, recovery: Recovery, audit: Audit, clock: Clock
) -> None:
    """What waits for the database, and a database that is older than it was."""
    metrics.audit_backlog.set_function(lambda: audit.backlog)
    metrics.ask_count(
        "audit_given_up", "Entries of the audit that were dropped because too many waited.", lambda: audit.given_up
    )
    health.register("escrow", custody.health)
    health.register("waiting", custody.waiting_health)
    if custody.has_copy:
        health.register("escrow_copy", custody.copy_health)
    health.register("history", recovery.health)
    metrics.escrow_entries.set_function(lambda: custody.count)
    metrics.escrow_age.set_function(
        lambda: 0.0 if custody.oldest_at is None else (clock.now() - custody.oldest_at) / timedelta(seconds=1)
    )
    metrics.database_behind.set_function(lambda: recovery.alarms)
