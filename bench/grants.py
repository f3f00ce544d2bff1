"""Grants by the million: written by the database itself, and enough of them truly sealed to be handed out."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from sqlalchemy import Engine, bindparam, create_engine, text, update

from bench.stage import LIFE, TOKEN
from service.adapters.tables import grants, to_micros
from service.core.model import GrantId, TokenAnswer
from service.core.sealing.digests import fingerprint
from service.lifecycle import Container

APPLICATION = "default"
MOST_SEALED = 10_000
_FILL = text("""
INSERT INTO grants (application, "user", state, generation, fingerprint, access_sealed, refresh_sealed, refresh_digest,
    spent_digests, imported_digests, obtained_at, renewed_at, issued_at, access_expires_at, due_at, renew_at,
    refresh_expires_at, failures, refusals, asked_at, entered_at)
WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < :count)
SELECT 'default', CAST(:prefix AS TEXT) || i, 'connected', 1, :fingerprint, :sealed, :sealed,
    'digest', '', '', :issued, :issued, :issued, :expires, :due + i % 1000, :due + i % 1000, :ends + i, 0, 0, :issued,
    :issued
FROM numbers
""")


def user(number: int) -> str:
    return f"user{number}"


def fill(url: str, made: Container, count: int, *, due: int = 0) -> list[str]:
    """Write *count* grants, and *due* others that are to be renewed; returns users whose tokens really open.

    Nothing is sent anywhere. The planner is told of the new rows, as a database in use would know of them.
    """
    engine = create_engine(url.replace("+aiosqlite", ""))
    now = made.services.clock.now()
    application = made.services.directory.application(APPLICATION)
    common = {
        "fingerprint": fingerprint(application),
        "sealed": b"\0" * len(_sealed(made, user(0))),
        "issued": to_micros(now),
        "expires": to_micros(now + LIFE),
        "ends": to_micros(now + timedelta(days=90)),
    }
    later, before = to_micros(now + LIFE * 0.75), to_micros(now - LIFE)
    with engine.begin() as connection:
        connection.execute(_FILL, {**common, "count": count, "prefix": "user", "due": later})
        if due:
            connection.execute(_FILL, {**common, "count": due, "prefix": "due", "due": before})
    users = [user(number) for number in _spread(count)]
    _seal(engine, made, users)
    if not url.startswith("sqlite"):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE grants"))
    engine.dispose()
    return users


def _spread(count: int) -> Iterator[int]:
    """Up to `MOST_SEALED` numbers below *count*, far apart."""
    several = min(count, MOST_SEALED)
    return (number * count // several for number in range(several))


def _seal(engine: Engine, made: Container, users: Sequence[str]) -> None:
    statement = update(grants).where(grants.c.application == APPLICATION, grants.c.user == bindparam("whose"))
    rows = [{"whose": name, "access": _sealed(made, name)} for name in users]
    with engine.begin() as connection:
        connection.execute(statement.values(access_sealed=bindparam("access")), rows)


def _sealed(made: Container, name: str) -> bytes:
    """An access token of *name*, as the product stores it."""
    vault, now = made.core.vault, made.services.clock.now()
    access = vault.date(TokenAnswer(TOKEN, None, None, LIFE, now), generation=1, scope=None)
    application = made.services.directory.application(APPLICATION)
    tokens = vault.seal(GrantId(APPLICATION, name), application, access=access, refresh_token=None, scope=None, at=now)
    return tokens.access_sealed or b""
