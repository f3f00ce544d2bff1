"""The parts of docs/ that follow from the code. `python -m tests.house.handbook` writes them anew."""

import ast
import asyncio
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.cli.shown_settings import shown_settings
from service.config import Settings
from service.container import build
from service.core.redeeming.attempts import Ending
from service.telemetry import Described, Metrics
from tests.house.tree import ROOT, modules, syntax
from tests.support.brokers import SEALING_KEY, settings_from

HANDBOOK = ROOT / "docs" / "operations.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"

MEANINGS = {
    "VERSATURE_CLIENT_ID": "client id of the application `default`; without it there is none",
    "VERSATURE_CLIENT_SECRET": "its secret",
    "VERSATURE_VENDOR_ID": "sent as `vendor_id` with every token request",
    "VERSATURE_BASE_URL": "the API's address; token and authorize URL follow from it",
    "VERSATURE_TOKEN_URL": "if not `{base}/oauth/token/`",
    "VERSATURE_AUTHORIZE_URL": "if not `{base}/oauth/authorize/`",
    "VERSATURE_REVOCATION_URL": "where the provider has one (RFC 7009)",
    "VERSATURE_SCOPE": "the scope to ask for",
    "VERSATURE_PKCE": "`true`: PKCE with S256 (RFC 7636)",
    "VERSATURE_GRANT_TYPES": "what the application `default` may do",
    "BROKER_DATABASE_URL": "`sqlite+aiosqlite:///…` or `postgresql+psycopg://…`",
    "BROKER_DATABASE_POOL_SIZE": "connections of one process",
    "BROKER_REDIS_URL": "`redis://`, `rediss://` or `unix://`",
    "BROKER_ENCRYPTION_KEYS": "`id:base64-of-32-bytes[,older…]`; the first seals, all of them open",
    "BROKER_HOST": "address to listen on",
    "BROKER_PORT": "port to listen on",
    "BROKER_PUBLIC_URL": "how browsers reach the broker, if not `http://{host}:{port}`",
    "BROKER_ROUTES": "`all`; `internal`: no browser pages; `public`: nothing else",
    "BROKER_ADMIN_KEY": "key of the built-in caller `admin`; begins with `vtb_`",
    "BROKER_RETURN_ORIGINS": "origins to which `return_to` may lead",
    "BROKER_TRUSTED_PROXIES": "proxies whose `X-Forwarded-*` is believed",
    "BROKER_LOCAL_CACHE_SECONDS": "for how long a token is served without asking the database; 0: always ask",
    "BROKER_UPSTREAM_DEADLINE_SECONDS": "for one request to the provider, all in all",
    "BROKER_LEASE_SECONDS": "for one attempt to renew; at least twice the deadline",
    "BROKER_TAKEOVER_SECONDS": "how long after its lease an attempt that never ended is left alone",
    "BROKER_WAIT_SECONDS": "how long a caller without a valid token waits for a renewal",
    "BROKER_BACKOFF_INITIAL_SECONDS": "pause after a first failure; doubles",
    "BROKER_BACKOFF_MAX_SECONDS": "the longest pause",
    "BROKER_REFRESH_TOKEN_DAYS": "how long the provider keeps a refresh token",
    "BROKER_CALLER_REQUESTS_PER_SECOND": "of each caller, in one process; 0: no limit",
    "BROKER_ESCROW_DIR": "where answers wait for the database; must be persistent",
    "BROKER_KEEPALIVE_DAYS": "when an idle grant is renewed, lest it end; at most 0.9 of `BROKER_REFRESH_TOKEN_DAYS`",
    "BROKER_RENEW_ACTIVE_HOURS": "grants asked for within are renewed ahead of need; 0: none",
    "BROKER_RENEW_PER_SECOND": "renewals ahead of need per application, of the whole fleet",
    "BROKER_AUDIT_DAYS": "how long the audit is kept",
    "BROKER_DRAIN_SECONDS": "how long a shutdown waits for work under way; best not below the deadline",
    "BROKER_LOG_LEVEL": "`debug`, `info`, `warning` or `error`",
    "BROKER_LOG_FORMAT": "`json` or `human`",
    "BROKER_LOG_USERS": "users in logs: `hash` (a short keyed name), `plain` or `none`",
}


def settings_table() -> Iterator[str]:
    """Every setting with its default and meaning."""
    defaults = shown_settings(settings_from({"BROKER_ENCRYPTION_KEYS": SEALING_KEY}))
    required = {name.upper() for name, field in Settings.model_fields.items() if field.is_required()}
    yield "| setting | default | meaning |"
    yield "|---|---|---|"
    for name, default in defaults.items():
        shown = "required" if name in required else "" if default == "(not set)" else f"`{default.removesuffix('.0')}`"
        yield f"| `{name}` | {shown} | {MEANINGS[name]} |"


def metrics() -> list[Described]:
    """Every metric of a whole broker."""

    async def assemble() -> list[Described]:
        found = Metrics()
        await build(settings_from({"BROKER_ENCRYPTION_KEYS": SEALING_KEY}), found).close()
        return found.catalogue

    return asyncio.run(assemble())


def parts() -> set[str]:
    """Every part of a whole broker's readiness."""

    async def ask() -> set[str]:
        variables = {"BROKER_ENCRYPTION_KEYS": SEALING_KEY, "BROKER_REDIS_URL": "redis://127.0.0.1:9"}
        with tempfile.TemporaryDirectory() as folder:
            own = {"BROKER_DATABASE_URL": f"sqlite+aiosqlite:///{folder}/b.db", "BROKER_ESCROW_DIR": f"{folder}/escrow"}
            container = build(settings_from({**variables, **own}), Metrics())
            try:
                return set(await container.services.health.parts())
            finally:
                await container.close()

    return asyncio.run(ask())


def metrics_table() -> Iterator[str]:
    yield "| metric | kind | labels | meaning |"
    yield "|---|---|---|---|"
    for metric in sorted(metrics(), key=lambda metric: metric.name):
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.what} |"


def endings_table() -> Iterator[str]:
    """What the label `outcome` of `token_broker_renewals_total` can be."""
    yield "| outcome | what happened |"
    yield "|---|---|"
    for ending in Ending:
        yield f"| `{ending}` | {ending.explanation} |"


def rooms_tables() -> Iterator[str]:
    """Every room with what it is for, and its modules, each with the first line of what it says about itself."""
    for room in sorted({path.parent for path in modules("service")}):
        yield f"### `{room.relative_to(ROOT).as_posix()}/`"
        yield ""
        yield first_line(room / "__init__.py")
        yield ""
        yield "| module | its job |"
        yield "|---|---|"
        for path in modules("service"):
            if path.parent == room and path.name != "__init__.py":
                yield f"| `{path.name}` | {first_line(path)} |"
        yield ""


def first_line(path: Path) -> str:
    return (ast.get_docstring(syntax(path)) or "").splitlines()[0]


PAGES = {
    HANDBOOK: {"metrics": metrics_table, "endings": endings_table},
    CONFIGURATION: {"settings": settings_table},
    ARCHITECTURE: {"rooms": rooms_tables},
}


def with_generated_parts(page: Path) -> str:
    """The text of *page* with every part between its markers as it should be."""
    text = page.read_text()
    for name, lines in PAGES[page].items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise LookupError(f"the markers of {name} are not there, or not once")
        between = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        part = begin + "".join(f"{line}\n" for line in lines()) + end
        text = between.sub(lambda _found, part=part: part, text)  # type: ignore[misc]
    return text


def main() -> None:
    for page in PAGES:
        page.write_text(with_generated_parts(page))
        sys.stdout.write(f"{page.relative_to(ROOT)} is up to date\n")


if __name__ == "__main__":
    main()
