"""Makes every long-lived object, starts and closes them in order."""

import logging
import random
from dataclasses import dataclass
from datetime import timedelta

from service.adapters.keyring import AesKeyring
from service.adapters.sql_authorizations import SqlAuthorizationStore
from service.adapters.sql_database import Database
from service.adapters.sql_directory import SqlDirectoryStore
from service.adapters.sql_grants import SqlGrantStore
from service.adapters.sql_migrations import migrate, schema_is_current
from service.adapters.versature import VersatureServer
from service.config import DEFAULT_APPLICATION, Settings
from service.core.absent import NoEscrow, NoTokenCache
from service.core.administration import Administration, seal_registration
from service.core.authorization import Authorization
from service.core.breaker import Breaker
from service.core.broker import TokenBroker
from service.core.clock import Clock, SystemClock
from service.core.directory import Directory
from service.core.errors import StoreUnavailable
from service.core.exchange import CodeExchange
from service.core.health import Health, PartHealth, Readiness
from service.core.local_cache import LocalCache
from service.core.ports import GrantStore
from service.core.redemption import Redeemer
from service.core.renewal import Renewer
from service.core.revocation import Revoker
from service.core.saving import Saver
from service.core.services import Services
from service.core.vault import Vault
from service.telemetry import Metrics

log = logging.getLogger(__name__)

EXCHANGES_AT_ONCE = 10
"""Connections kept for logins and revocations while renewals use all of theirs."""


@dataclass(frozen=True, slots=True)
class Container:
    """Everything that lives as long as the process."""

    database: Database
    administration: Administration
    services: Services
    _server: VersatureServer
    _renewer: Renewer
    _exchange: CodeExchange
    _saver: Saver
    _drain: timedelta

    async def start(self) -> None:
        """Bring SQLite's schema up to date and read the callers; a database that is away may come later."""
        try:
            await migrate(self.database)
            await self.services.directory.check()
        except StoreUnavailable:
            log.warning("the database cannot be asked yet; starting without it")

    async def close(self) -> None:
        """Let flights land and answers reach the database, then close in reverse order."""
        for part in (self._exchange, self._renewer, self._saver):
            if left := await part.drain(self._drain):
                log.error("closing with unfinished work", extra={"part": type(part).__name__, "count": left})
        await self._server.close()
        await self.database.close()


def build(
    settings: Settings, metrics: Metrics, *, clock: Clock | None = None, grants: GrantStore | None = None
) -> Container:
    """Make everything from *settings*; tests replace parts. Nothing here talks to the network or the disk.

    Raises:
        InvalidRequest: the settings describe an impossible application.
    """
    clock, policy, jitter = clock or SystemClock(), settings.policy, random.random
    keyring = AesKeyring(settings.broker_encryption_keys)
    vault = Vault(keyring, policy, jitter)
    database = Database(
        settings.broker_database_url.get_secret_value(), pool_size=settings.broker_database_pool_size, clock=clock
    )
    rows = SqlDirectoryStore(database)
    requests = SqlAuthorizationStore(database)
    grants = grants or SqlGrantStore(database)
    shared, escrow, local = NoTokenCache(), NoEscrow(), LocalCache()
    server = VersatureServer(
        deadline=policy.upstream_deadline,
        max_connections=policy.renewals_at_once + EXCHANGES_AT_ONCE,
        clock=clock,
        observe=metrics.observe_upstream,
    )
    breaker = Breaker(clock, policy)
    revoker = Revoker(grants, server, vault, shared, local, clock)
    saver = Saver(grants, vault, escrow, shared, local, revoker, clock, policy)
    redeemer = Redeemer(grants, server, vault, saver, breaker, clock, policy, jitter)
    renewer = Renewer(grants, redeemer, vault, breaker, clock, policy, jitter)
    exchange = CodeExchange(grants, requests, server, vault, keyring, local, clock, policy)
    directory = _directory(settings, rows, vault, clock)
    authorization = Authorization(
        requests,
        directory,
        exchange,
        keyring,
        clock,
        policy,
        redirect_uri=settings.redirect_uri,
        return_origins=settings.broker_return_origins,
    )
    services = Services(
        broker=TokenBroker(grants, renewer, saver, revoker, vault, shared, local, clock, policy),
        directory=directory,
        authorization=authorization,
        grants=grants,
        health=_health(database, directory, keyring, clock),
        clock=clock,
        public_url=settings.public_url,
    )
    administration = Administration(rows, vault, reserved=[DEFAULT_APPLICATION])
    drain = timedelta(seconds=settings.broker_drain_seconds)
    return Container(database, administration, services, server, renewer, exchange, saver, drain)


def _directory(settings: Settings, rows: SqlDirectoryStore, vault: Vault, clock: Clock) -> Directory:
    registration, admin_key = settings.default_registration, settings.broker_admin_key
    return Directory(
        rows,
        clock,
        settings.policy,
        default_application=seal_registration(registration, vault) if registration else None,
        admin_key=admin_key.get_secret_value() if admin_key else None,
    )


def _health(database: Database, directory: Directory, keyring: AesKeyring, clock: Clock) -> Health:
    ready = PartHealth(Readiness.READY)

    async def database_answers() -> PartHealth:
        try:
            if await schema_is_current(database):
                return ready
        except StoreUnavailable:
            return PartHealth(Readiness.DEGRADED, "the database cannot be asked; cached tokens still flow")
        return PartHealth(Readiness.NOT_READY, "the schema is another version's: run token-broker migrate")

    async def callers_are_known() -> PartHealth:
        if directory.is_loaded:
            return ready
        return PartHealth(Readiness.NOT_READY, "the callers have not been read yet")

    async def keys_are_known() -> PartHealth:
        if not keyring.missing:
            return ready
        return PartHealth(Readiness.NOT_READY, "stored secrets need a key that BROKER_ENCRYPTION_KEYS does not hold")

    health = Health(clock)
    health.register("database", database_answers)
    health.register("callers", callers_are_known)
    health.register("keys", keys_are_known)
    return health
