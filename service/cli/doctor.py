"""`token-broker doctor`: looks at everything that the broker needs, changes nothing, and says what to do."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import typer
from sqlalchemy import make_url

from service.adapters.reachability import Unreachable, reach
from service.adapters.redis_cache import RedisTokenCache
from service.adapters.spool_folder import examine
from service.adapters.sql_health import DatabaseHealth
from service.cli.running import FAILED, settings_or_exit
from service.cli.shown_settings import shown_settings
from service.config import Settings
from service.container import build
from service.core.access.registration import seal_registration
from service.core.condition.health import PartHealth, Readiness
from service.core.condition.skew import ClockSkew
from service.core.errors import KeyUnavailable, ReauthorizationRequired, StoreUnavailable
from service.core.model import Application, Grant
from service.core.records import GrantFilter
from service.core.sealing.vault import Vault
from service.lifecycle import Container
from service.logs import configure_logging
from service.telemetry import Metrics

OK = "ok"
SAMPLE = 200
DOWN = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
"""What a proxy says for a server that is away. Any other answer to our HEAD may be how a provider treats a HEAD."""
MOST_SKEW = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: well, or what to do about it; `detail` is worth knowing either way."""

    name: str
    ok: bool
    detail: str


def examine_everything(as_json: bool) -> None:
    """Print what was found; leaves with 1 when anything is wrong."""
    settings = settings_or_exit()
    configure_logging("critical", "human")
    findings = asyncio.run(_findings(settings))
    well = all(finding.ok for finding in findings)
    if as_json:
        report = {"ok": well, "settings": shown_settings(settings), "checks": [asdict(found) for found in findings]}
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        for line in _lines(settings, findings):
            typer.echo(line)
    if not well:
        raise typer.Exit(FAILED)


def _lines(settings: Settings, findings: list[Finding]) -> Iterator[str]:
    shown = shown_settings(settings)
    width = max(map(len, [*shown, *(finding.name for finding in findings)]))
    yield from (f"{name.ljust(width)}  {value}" for name, value in shown.items())
    yield ""
    for finding in findings:
        said = (f"{OK}: {finding.detail}" if finding.detail else OK) if finding.ok else finding.detail
        yield f"{finding.name.ljust(width)}  {said}"


async def _findings(settings: Settings) -> list[Finding]:
    container = build(settings, Metrics(), works_alone=False)
    to_come = _file_to_come(settings)
    try:
        found = [to_come] if to_come else [finding async for finding in _inside(settings, container)]
        return found + [finding async for finding in _outside(settings, container)]
    finally:
        await container.close()


def _file_to_come(settings: Settings) -> Finding | None:
    """SQLite makes its file when it is first opened, which is not for a doctor to do."""
    url = make_url(settings.broker_database_url.get_secret_value())
    if url.get_backend_name() != "sqlite" or url.database is None or Path(url.database).exists():
        return None
    folder = Path(url.database).absolute().parent
    if not folder.is_dir():
        return Finding("database", False, f"its folder {folder} does not exist: mount or make it")
    return Finding("database", True, "not there yet; `token-broker serve` makes it")


async def _inside(settings: Settings, container: Container) -> AsyncIterator[Finding]:
    """The database, and what it holds."""
    clock, skew = container.clock, ClockSkew()
    health = DatabaseHealth(container.database, skew, clock)
    there = _finding("database", await health.database())
    yield there
    if not there.ok:
        return
    yield _finding("durability", await health.durability())
    yield _finding("clock", await health.clock(), f"{skew.last / timedelta(seconds=1):+.3f} s from ours")
    try:
        await container.services.directory.check()
        yield await _stored_secrets(container)
    except StoreUnavailable:
        yield Finding("contents", False, "the database stopped answering while it was read: try again")
        return
    callers = len(container.services.directory.callers)
    if callers or settings.broker_admin_key is not None:
        yield Finding("callers", True, f"{callers} stored")
    else:
        yield Finding("callers", False, "nobody may ask for anything: token-broker callers add")


async def _stored_secrets(container: Container) -> Finding:
    """Whether the keys at hand open what is stored: every client secret, and a sample of the grants."""
    vault, directory = container.core.vault, container.services.directory
    sample = await container.services.grants.page(GrantFilter(), after=None, limit=SAMPLE, now=container.clock.now())
    locked = [f"the client secret of {app.name}" for app in directory.applications if not _opens(vault, app)]
    verdicts = [_verdict(container, grant) for grant in sample]
    locked += [f"{number} of {len(sample)} grants" for number in [verdicts.count("locked")] if number]
    if locked:
        return Finding("keys", False, f"a key is missing in BROKER_ENCRYPTION_KEYS for {', '.join(locked)}")
    if broken := verdicts.count("broken"):
        return Finding(
            "keys", False, f"{broken} of {len(sample)} grants fail their seal: see the runbook of a lost key"
        )
    return Finding("keys", True, f"{len(sample)} grants and {len(directory.applications)} client secrets open")


def _opens(vault: Vault, application: Application) -> bool:
    try:
        vault.open_client_secret(application)
    except KeyUnavailable:
        return False
    return True


def _verdict(container: Container, grant: Grant) -> str:
    try:
        container.core.vault.open_access(grant)
        if grant.refresh_sealed is not None:
            container.core.vault.open_refresh(grant)
    except KeyUnavailable:
        return "locked"
    except ReauthorizationRequired:
        return "broken"
    return OK


async def _outside(settings: Settings, container: Container) -> AsyncIterator[Finding]:
    """What is there besides the database."""
    folder = settings.broker_escrow_dir
    trouble = await asyncio.to_thread(examine, folder)
    yield Finding("escrow", trouble is None, str(folder.absolute()) if trouble is None else f"{folder}: {trouble}")
    if settings.broker_redis_url is not None:
        cache = RedisTokenCache(
            settings.broker_redis_url.get_secret_value(), clock=container.clock, observe=_unobserved
        )
        try:
            yield _finding("redis", await cache.health())
        finally:
            await cache.close()
    applications = _applications(settings, container)
    if not applications:
        yield Finding("applications", False, "there is none: VERSATURE_CLIENT_ID, or token-broker applications add")
    for application in applications:
        yield await _provider(container, application)


def _applications(settings: Settings, container: Container) -> list[Application]:
    """All of them, or the settings' own while the others cannot be read."""
    directory, own = container.services.directory, settings.default_registration
    if directory.is_loaded or own is None:
        return directory.applications
    return [seal_registration(own, container.core.vault)]


async def _provider(container: Container, application: Application) -> Finding:
    name, host = f"provider of {application.name}", urlsplit(application.token_url).netloc
    try:
        reached = await reach(application.token_url, container.clock)
    except Unreachable as failure:
        return Finding(name, False, f"{host} cannot be reached ({failure}): look at network, proxy and token URL")
    if reached.skew is not None and abs(reached.skew) > MOST_SKEW:
        seconds = round(reached.skew / timedelta(seconds=1))
        return Finding(name, False, f"the clock of {host} is {seconds:+d} s from ours: mend ours by NTP if it is wrong")
    if reached.status in DOWN:
        return Finding(name, False, f"{host} is in trouble ({reached.status}): see the runbook Versature lost")
    return Finding(name, True, f"{host} answers ({reached.status})")


def _unobserved(_operation: str, _outcome: str) -> None:
    """Nobody reads a doctor's metrics."""


def _finding(name: str, part: PartHealth, detail: str = "") -> Finding:
    return Finding(name, part.readiness is Readiness.READY, part.detail or detail)
