"""Makes every long-lived object; `lifecycle.py` starts and closes them in order."""

import logging
import random
from datetime import timedelta

from service.adapters.escrow import SpoolEscrow
from service.adapters.keyring import AesKeyring
from service.adapters.redis_cache import RedisTokenCache
from service.adapters.redis_escrow import RedisEscrow
from service.adapters.sql_audit import SqlAuditStore
from service.adapters.sql_authorizations import SqlAuthorizationStore
from service.adapters.sql_census import SqlCensusStore
from service.adapters.sql_database import Database
from service.adapters.sql_directory import SqlDirectoryStore
from service.adapters.sql_grants import SqlGrantStore
from service.adapters.sql_health import DatabaseHealth
from service.adapters.sql_renewal_queue import SqlRenewalQueue
from service.adapters.sql_sealed import SqlSealedRows
from service.adapters.versature import VersatureServer
from service.config import DEFAULT_APPLICATION, Settings
from service.core.absent import NoTokenCache
from service.core.access.administration import Administration
from service.core.access.rate_limit import RateLimiter
from service.core.access.registration import seal_registration
from service.core.assembly import Core, Ports, assemble
from service.core.audit import Audit
from service.core.authorization import Authorization
from service.core.clock import Clock, SystemClock
from service.core.condition.health import Health
from service.core.condition.shutdown import Shutdown
from service.core.condition.skew import ClockSkew
from service.core.directory import Directory
from service.core.policy import Policy
from service.core.ports import GrantStore
from service.core.redeeming.steps import Witness, nobody
from service.core.sealing.inventory import Stock
from service.core.sealing.rotation import Rotation
from service.core.sealing.vault import Vault
from service.core.services import Services
from service.core.upkeep.census import Census
from service.lifecycle import Container, Duty
from service.telemetry import Metrics
from service.watching import watch, watch_core, watch_safety

log = logging.getLogger(__name__)

REPLAY_EVERY = timedelta(seconds=2)
REVOKE_EVERY = timedelta(seconds=10)
AUDIT_EVERY = timedelta(seconds=3)
HEALTH_EVERY = timedelta(seconds=10)
CENSUS_EVERY = timedelta(minutes=1)
RECHECK_EVERY = timedelta(minutes=1)
FORGET_EVERY = timedelta(minutes=10)
EXCHANGES_AT_ONCE = 10
"""Connections kept for logins and revocations while renewals use all of theirs."""


def build(
    settings: Settings,
    metrics: Metrics,
    *,
    clock: Clock | None = None,
    grants: GrantStore | None = None,
    witness: Witness = nobody,
    shutdown: Shutdown | None = None,
    works_alone: bool = True,
) -> Container:
    """Make everything from *settings*; tests replace parts. Nothing here talks to the network or the disk.

    Raises:
        InvalidRequest: the settings describe an impossible application.
    """
    clock, keyring = clock or SystemClock(), AesKeyring(settings.broker_encryption_keys)
    skew, health, policy = ClockSkew(), Health(clock), settings.policy
    database = _database(settings, clock)
    server, (redis, copy) = _server(policy, clock, metrics), _redis(settings, clock, metrics)
    ports = _ports(settings, grants or SqlGrantStore(database), database, server, keyring, redis, copy)
    rows, vault = SqlDirectoryStore(database), Vault(keyring, policy, random.random)
    directory = _directory(settings, rows, vault, clock)
    audit = Audit(audit_rows := SqlAuditStore(database), clock, settings.name_user)
    shutdown = shutdown or Shutdown(settings.drain, clock)
    told = (clock, policy, random.random, metrics)
    core = assemble(ports, directory, audit, *told, shutdown, skew=skew, observer=metrics, witness=witness)
    services = Services(
        broker=core.broker,
        directory=directory,
        authorization=_authorization(settings, ports, directory, core, audit, clock, witness),
        grants=ports.grants,
        health=health,
        clock=clock,
        administration=_administration(settings, rows, vault, directory, audit, clock),
        limiter=RateLimiter(clock, settings.broker_caller_requests_per_second),
        audit=audit,
        audit_store=audit_rows,
        lane=core.lane,
        public_url=settings.public_url,
    )
    database_health = DatabaseHealth(database, skew, clock)
    watch(health, metrics, database, database_health, directory, keyring, redis, skew)
    census, stock = Census(SqlCensusStore(database), clock, CENSUS_EVERY), _stock(database, keyring, core, ports)
    watch_core(metrics, core, directory, keyring, census, renews=policy.renew_active > timedelta(0))
    watch_safety(health, metrics, core.custody, core.recovery, audit, clock)
    return Container(
        database=database,
        rotation=Rotation(SqlSealedRows(database), keyring, stock, audit, clock, core.recovery.replay),
        services=services,
        core=core,
        durability=database_health.durability,
        census=census,
        clock=clock,
        _duties=_duties(settings, core, audit, census, health, stock),
        _drains=(core.exchange, core.renewer, core.saver, core.errands, core.lane, audit),
        _closes=tuple(part for part in (server, redis, copy, database) if part is not None),
        _shutdown=shutdown,
        _works_alone=works_alone,
    )


def _stock(database: Database, keyring: AesKeyring, core: Core, ports: Ports) -> Stock:
    escrows = {"the spool folder": ports.spool} | ({"Redis": ports.copy} if ports.copy is not None else {})
    return Stock(SqlSealedRows(database), escrows, keyring, core.vault)


def _database(settings: Settings, clock: Clock) -> Database:
    url = settings.broker_database_url.get_secret_value()
    return Database(url, pool_size=settings.broker_database_pool_size, clock=clock)


def _ports(
    settings: Settings,
    grants: GrantStore,
    database: Database,
    server: VersatureServer,
    keyring: AesKeyring,
    redis: RedisTokenCache | None,
    copy: RedisEscrow | None,
) -> Ports:
    return Ports(
        grants=grants,
        queue=SqlRenewalQueue(database),
        requests=SqlAuthorizationStore(database),
        server=server,
        keyring=keyring,
        shared=redis or NoTokenCache(),
        spool=SpoolEscrow(settings.broker_escrow_dir),
        copy=copy,
    )


def _duties(
    settings: Settings, core: Core, audit: Audit, census: Census, health: Health, stock: Stock
) -> tuple[Duty, ...]:
    policy, kept = settings.policy, timedelta(days=settings.broker_audit_days)
    return (
        Duty("confirming cached tokens", policy.confirm_every, core.revalidator.tick),
        Duty("replaying escrow", REPLAY_EVERY, core.recovery.replay),
        Duty("background renewal", policy.background_every, core.background.tick),
        Duty("revoking upstream", REVOKE_EVERY, core.revoker.tell_again),
        Duty("asking all parts how they are", HEALTH_EVERY, health.parts),
        Duty("counting grants", CENSUS_EVERY, census.take, at_once=True),
        Duty("looking whether a missing key is still needed", RECHECK_EVERY, stock.recheck),
        Duty("writing the audit", AUDIT_EVERY, lambda: _write_audit(core, audit)),
        Duty("forgetting the audit", FORGET_EVERY, lambda: audit.forget(kept)),
    )


async def _write_audit(core: Core, audit: Audit) -> None:
    core.lane.collect()
    await audit.flush()


def _server(policy: Policy, clock: Clock, metrics: Metrics) -> VersatureServer:
    return VersatureServer(
        deadline=policy.upstream_deadline,
        # One for each renewal there may be: who has claimed must not wait for it, for its lease and deadline run.
        max_connections=policy.places + policy.background_at_once + EXCHANGES_AT_ONCE,
        clock=clock,
        observe=metrics.observe_upstream,
        note_skew=metrics.note_provider_skew,
    )


def _redis(
    settings: Settings, clock: Clock, metrics: Metrics
) -> tuple[RedisTokenCache, RedisEscrow] | tuple[None, None]:
    if settings.broker_redis_url is None:
        return None, None
    url = settings.broker_redis_url.get_secret_value()
    return RedisTokenCache(url, clock=clock, observe=metrics.count_redis), RedisEscrow(url, clock=clock)


def _authorization(
    settings: Settings,
    ports: Ports,
    directory: Directory,
    core: Core,
    audit: Audit,
    clock: Clock,
    witness: Witness,
) -> Authorization:
    return Authorization(
        ports.requests,
        directory,
        core.exchange,
        ports.keyring,
        audit,
        clock,
        settings.policy,
        redirect_uri=settings.redirect_uri,
        return_origins=settings.broker_return_origins,
        witness=witness,
    )


def _administration(
    settings: Settings, rows: SqlDirectoryStore, vault: Vault, directory: Directory, audit: Audit, clock: Clock
) -> Administration:
    return Administration(
        rows, vault, directory, audit, clock, reserved=[DEFAULT_APPLICATION], base_url=settings.versature_base_url
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
