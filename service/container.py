"""Makes every long-lived object, starts and closes them in order."""

import asyncio
import logging
import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from service.adapters.keyring import AesKeyring
from service.adapters.redis_cache import RedisTokenCache
from service.adapters.sql_authorizations import SqlAuthorizationStore
from service.adapters.sql_database import Database
from service.adapters.sql_directory import SqlDirectoryStore
from service.adapters.sql_grants import SqlGrantStore
from service.adapters.sql_health import DatabaseHealth
from service.adapters.sql_migrations import migrate
from service.adapters.versature import VersatureServer
from service.config import DEFAULT_APPLICATION, Settings
from service.core.absent import NoEscrow, NoTokenCache
from service.core.administration import Administration
from service.core.authorization import Authorization
from service.core.breaker import Breaker
from service.core.broker import TokenBroker
from service.core.clock import Clock, SystemClock
from service.core.directory import Directory
from service.core.errors import StoreUnavailable
from service.core.exchange import CodeExchange
from service.core.health import Health
from service.core.local_cache import LocalCache
from service.core.policy import Policy
from service.core.ports import GrantStore, TokenCache
from service.core.rate_limit import RateLimiter
from service.core.redemption import Redeemer
from service.core.registration import seal_registration
from service.core.renewal import Renewer
from service.core.revalidation import Confirmer, Revalidator
from service.core.revocation import Revoker
from service.core.saving import Saver
from service.core.services import Services
from service.core.skew import ClockSkew
from service.core.vault import Vault
from service.telemetry import Metrics

log = logging.getLogger(__name__)

EXCHANGES_AT_ONCE = 10
"""Connections kept for logins and revocations while renewals use all of theirs."""


class Closable(Protocol):
    """Something that holds connections."""

    async def close(self) -> None: ...


class Drainable(Protocol):
    """Something that has work under way."""

    async def drain(self, timeout: timedelta) -> int:
        """Wait for it, at most *timeout*; returns how much is left."""
        ...


@dataclass(slots=True)
class Container:
    """Everything that lives as long as the process. *works_alone* False leaves periodic work to whoever asks for it."""

    database: Database
    administration: Administration
    services: Services
    revalidator: Revalidator
    _drains: tuple[Drainable, ...]
    _closes: tuple[Closable, ...]
    _drain_within: timedelta
    _works_alone: bool
    _background: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Bring SQLite's schema up to date and read the callers; a database that is away may come later."""
        try:
            if self.database.is_sqlite:
                await migrate(self.database)
            await self.services.directory.check()
        except StoreUnavailable:
            log.warning("the database cannot be asked yet; starting without it")
        if self._works_alone:
            self._background.append(asyncio.create_task(self.revalidator.run()))

    async def close(self) -> None:
        """Let flights land and answers reach the database, then close in reverse order."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for part in self._drains:
            if left := await part.drain(self._drain_within):
                log.error("closing with unfinished work", extra={"part": type(part).__name__, "count": left})
        for connected in self._closes:
            await connected.close()


def build(
    settings: Settings,
    metrics: Metrics,
    *,
    clock: Clock | None = None,
    grants: GrantStore | None = None,
    works_alone: bool = True,
) -> Container:
    """Make everything from *settings*; tests replace parts. Nothing here talks to the network or the disk.

    Raises:
        InvalidRequest: the settings describe an impossible application.
    """
    clock, policy, jitter = clock or SystemClock(), settings.policy, random.random
    keyring, skew, health = AesKeyring(settings.broker_encryption_keys), ClockSkew(), Health(clock)
    vault = Vault(keyring, policy, jitter)
    database = Database(
        settings.broker_database_url.get_secret_value(), pool_size=settings.broker_database_pool_size, clock=clock
    )
    rows, requests = SqlDirectoryStore(database), SqlAuthorizationStore(database)
    grants, local = grants or SqlGrantStore(database), LocalCache()
    redis = _redis(settings, clock, metrics)
    shared: TokenCache = redis or NoTokenCache()
    server = _server(policy, clock, metrics)
    breaker = Breaker(clock, policy)
    revoker = Revoker(grants, server, vault, shared, local, clock)
    saver = Saver(grants, vault, NoEscrow(), shared, local, revoker, clock, policy)
    redeemer = Redeemer(grants, server, vault, saver, breaker, clock, policy, jitter)
    renewer = Renewer(grants, redeemer, vault, shared, breaker, skew, clock, policy, jitter)
    exchange = CodeExchange(grants, requests, server, vault, keyring, local, clock, policy)
    directory = _directory(settings, rows, vault, clock)
    confirmer = Confirmer(grants, clock)
    administration = Administration(
        rows, vault, directory, clock, reserved=[DEFAULT_APPLICATION], base_url=settings.versature_base_url
    )
    services = Services(
        broker=TokenBroker(grants, renewer, saver, revoker, vault, shared, local, confirmer, clock, policy),
        directory=directory,
        authorization=_authorization(settings, requests, directory, exchange, keyring, clock),
        grants=grants,
        health=health,
        clock=clock,
        administration=administration,
        limiter=RateLimiter(clock, settings.broker_caller_requests_per_second),
        public_url=settings.public_url,
    )
    _watch(health, metrics, database, DatabaseHealth(database, skew, clock), directory, keyring, redis, skew)
    return Container(
        database=database,
        administration=administration,
        services=services,
        revalidator=Revalidator(grants, directory, local, clock, policy),
        _drains=(exchange, renewer, saver),
        _closes=(server, redis, database) if redis else (server, database),
        _drain_within=timedelta(seconds=settings.broker_drain_seconds),
        _works_alone=works_alone and policy.local_cache > timedelta(0),
    )


def _server(policy: Policy, clock: Clock, metrics: Metrics) -> VersatureServer:
    return VersatureServer(
        deadline=policy.upstream_deadline,
        max_connections=policy.renewals_at_once + EXCHANGES_AT_ONCE,
        clock=clock,
        observe=metrics.observe_upstream,
    )


def _redis(settings: Settings, clock: Clock, metrics: Metrics) -> RedisTokenCache | None:
    if settings.broker_redis_url is None:
        return None
    return RedisTokenCache(settings.broker_redis_url.get_secret_value(), clock=clock, observe=metrics.count_redis)


def _authorization(
    settings: Settings,
    requests: SqlAuthorizationStore,
    directory: Directory,
    exchange: CodeExchange,
    keyring: AesKeyring,
    clock: Clock,
) -> Authorization:
    return Authorization(
        requests,
        directory,
        exchange,
        keyring,
        clock,
        settings.policy,
        redirect_uri=settings.redirect_uri,
        return_origins=settings.broker_return_origins,
    )


def _directory(settings: Settings, rows: SqlDirectoryStore, vault: Vault, clock: Clock) -> Directory:
    registration, admin_key = settings.default_registration, settings.broker_admin_key
    return Directory(
        rows,
        clock,
        settings.policy,
        default_application=seal_registration(registration, vault) if registration else None,
        admin_key=admin_key.get_secret_value() if admin_key else None,
    )


def _watch(
    health: Health,
    metrics: Metrics,
    database: Database,
    database_health: DatabaseHealth,
    directory: Directory,
    keyring: AesKeyring,
    redis: RedisTokenCache | None,
    skew: ClockSkew,
) -> None:
    """Let readiness and metrics see every part."""
    health.register("database", database_health.database)
    health.register("clock", database_health.clock)
    health.register("callers", directory.health)
    health.register("keys", keyring.health)
    if redis is not None:
        health.register("redis", redis.health)
        metrics.redis_bypassed.set_function(lambda: redis.is_bypassed)
    metrics.database_bypassed.set_function(lambda: database.is_bypassed)
    metrics.clock_skew.set_function(lambda: skew.last / timedelta(seconds=1))
