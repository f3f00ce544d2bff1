"""Makes every long-lived object, starts and closes them in order."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from service.adapters.escrow import SpoolEscrow
from service.adapters.keyring import AesKeyring
from service.adapters.redis_cache import RedisTokenCache
from service.adapters.redis_escrow import RedisEscrow
from service.adapters.sql_authorizations import SqlAuthorizationStore
from service.adapters.sql_database import Database
from service.adapters.sql_directory import SqlDirectoryStore
from service.adapters.sql_grants import SqlGrantStore
from service.adapters.sql_health import DatabaseHealth
from service.adapters.sql_migrations import migrate
from service.adapters.sql_renewal_queue import SqlRenewalQueue
from service.adapters.sql_sealed import SqlSealedRows
from service.adapters.versature import VersatureServer
from service.config import DEFAULT_APPLICATION, Settings
from service.core.absent import NoTokenCache
from service.core.administration import Administration, seal_registration
from service.core.assembly import Core, Ports, assemble
from service.core.authorization import Authorization
from service.core.clock import Clock, SystemClock
from service.core.directory import Directory
from service.core.errors import StoreUnavailable
from service.core.health import Check, Health, Readiness
from service.core.inventory import Stock
from service.core.periodic import every
from service.core.policy import Policy
from service.core.ports import GrantStore
from service.core.rotation import Rotation
from service.core.services import Services
from service.core.skew import ClockSkew
from service.core.steps import Witness, nobody
from service.core.vault import Vault
from service.telemetry import Metrics
from service.watching import watch, watch_escrow

log = logging.getLogger(__name__)

LAST_CHANCE = 0.1
"""Seconds for each part whose time for draining has been used up by others."""

REPLAY_EVERY = timedelta(seconds=2)
REVOKE_EVERY = timedelta(seconds=10)
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


class Ending:
    """When this process was asked to end; the time for draining counts from there."""

    def __init__(self) -> None:
        self.began_at: float | None = None

    def begin(self) -> None:
        if self.began_at is None:
            self.began_at = time.monotonic()


@dataclass(frozen=True, slots=True)
class Duty:
    """Work that the process does by itself, again and again."""

    what: str
    period: timedelta
    work: Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Container:
    """Everything that lives as long as the process. *works_alone* False leaves periodic work to whoever asks for it."""

    database: Database
    administration: Administration
    rotation: Rotation
    services: Services
    core: Core
    durability: Check
    clock: Clock
    _duties: tuple[Duty, ...]
    _drains: tuple[Drainable, ...]
    _closes: tuple[Closable, ...]
    _drain_within: timedelta
    _ending: Ending
    _works_alone: bool
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Bring SQLite's schema up to date, read the callers, and bring in what an earlier process left in escrow.

        A database that is away may come later; until then no grant is renewed for which an answer waits.
        """
        try:
            if self.database.is_sqlite:
                await migrate(self.database)
            await self.services.directory.check()
        except StoreUnavailable:
            log.warning("the database cannot be asked yet; starting without it")
        try:
            await self.core.recovery.replay()
        except StoreUnavailable:
            log.warning("answers in escrow wait for the database")
        durability = await self.durability()
        if durability.readiness is not Readiness.READY:
            log.error("the database is not safe", extra={"detail": durability.detail})
        if self._works_alone:
            self._tasks += [
                asyncio.create_task(every(duty.period, duty.work, self.clock, duty.what)) for duty in self._duties
            ]

    async def close(self) -> None:
        """Let flights land and answers reach the database within the time for draining, then close in reverse order."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ending.begin()
        end = (self._ending.began_at or 0.0) + self._drain_within.total_seconds()
        for part in self._drains:
            left = await part.drain(timedelta(seconds=max(end - time.monotonic(), LAST_CHANCE)))
            if left:
                log.error("closing with unfinished work", extra={"part": type(part).__name__, "count": left})
        for connected in self._closes:
            await connected.close()


def build(
    settings: Settings,
    metrics: Metrics,
    *,
    clock: Clock | None = None,
    grants: GrantStore | None = None,
    witness: Witness = nobody,
    ending: Ending | None = None,
    works_alone: bool = True,
) -> Container:
    """Make everything from *settings*; tests replace parts. Nothing here talks to the network or the disk.

    Raises:
        InvalidRequest: the settings describe an impossible application.
    """
    clock, keyring = clock or SystemClock(), AesKeyring(settings.broker_encryption_keys)
    skew, health, policy = ClockSkew(), Health(clock), settings.policy
    database = Database(
        settings.broker_database_url.get_secret_value(), pool_size=settings.broker_database_pool_size, clock=clock
    )
    server, (redis, copy) = _server(policy, clock, metrics), _redis(settings, clock, metrics)
    spool = SpoolEscrow(settings.broker_escrow_dir)
    ports = Ports(
        grants=grants or SqlGrantStore(database),
        queue=SqlRenewalQueue(database),
        requests=SqlAuthorizationStore(database),
        server=server,
        keyring=keyring,
        shared=redis or NoTokenCache(),
        spool=spool,
        copy=copy,
    )
    rows, vault = SqlDirectoryStore(database), Vault(keyring, policy, random.random)
    directory = _directory(settings, rows, vault, clock)
    core = assemble(
        ports,
        directory,
        clock,
        policy,
        random.random,
        skew=skew,
        count_lost=metrics.count_lost,
        witness=witness,
    )
    services = Services(
        broker=core.broker,
        directory=directory,
        authorization=_authorization(settings, ports, directory, core, clock, witness),
        grants=ports.grants,
        health=health,
        clock=clock,
        public_url=settings.public_url,
    )
    database_health = DatabaseHealth(database, skew, clock)
    watch(health, metrics, database, database_health, directory, keyring, redis, skew)
    watch_escrow(health, metrics, core.custody, core.recovery, clock)
    return Container(
        database=database,
        administration=Administration(rows, vault, reserved=[DEFAULT_APPLICATION]),
        rotation=_rotation(SqlSealedRows(database), keyring, core, clock, spool, copy),
        services=services,
        core=core,
        durability=database_health.durability,
        clock=clock,
        _duties=_duties(policy, core),
        _drains=(core.exchange, core.renewer, core.saver, core.errands),
        _closes=tuple(part for part in (server, redis, copy, database) if part is not None),
        _drain_within=timedelta(seconds=settings.broker_drain_seconds),
        _ending=ending or Ending(),
        _works_alone=works_alone,
    )


def _rotation(
    sealed: SqlSealedRows, keyring: AesKeyring, core: Core, clock: Clock, spool: SpoolEscrow, copy: RedisEscrow | None
) -> Rotation:
    escrows = {"the spool folder": spool} | ({"Redis": copy} if copy is not None else {})
    return Rotation(sealed, keyring, Stock(sealed, escrows, keyring, core.vault), clock, core.recovery.replay)


def _duties(policy: Policy, core: Core) -> tuple[Duty, ...]:
    duties = (
        Duty("confirming cached tokens", policy.local_cache / 3, core.revalidator.tick),
        Duty("replaying escrow", REPLAY_EVERY, core.recovery.replay),
        Duty("background renewal", policy.background_every, core.background.tick),
        Duty("revoking upstream", REVOKE_EVERY, core.revoker.tell_again),
    )
    return tuple(duty for duty in duties if duty.period > timedelta(0))


def _server(policy: Policy, clock: Clock, metrics: Metrics) -> VersatureServer:
    return VersatureServer(
        deadline=policy.upstream_deadline,
        max_connections=policy.renewals_at_once + policy.background_at_once + EXCHANGES_AT_ONCE,
        clock=clock,
        observe=metrics.observe_upstream,
    )


def _redis(
    settings: Settings, clock: Clock, metrics: Metrics
) -> tuple[RedisTokenCache, RedisEscrow] | tuple[None, None]:
    if settings.broker_redis_url is None:
        return None, None
    url = settings.broker_redis_url.get_secret_value()
    return RedisTokenCache(url, clock=clock, observe=metrics.count_redis), RedisEscrow(url)


def _authorization(
    settings: Settings, ports: Ports, directory: Directory, core: Core, clock: Clock, witness: Witness
) -> Authorization:
    return Authorization(
        ports.requests,
        directory,
        core.exchange,
        ports.keyring,
        clock,
        settings.policy,
        redirect_uri=settings.redirect_uri,
        return_origins=settings.broker_return_origins,
        witness=witness,
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
