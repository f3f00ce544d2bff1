"""Settings are shown as they were understood, and nothing of a secret with them."""

import pytest

from service.cli.shown_settings import shown_settings
from tests.support.brokers import SEALING_KEY, settings_from


def shown(name: str, value: str) -> str:
    return shown_settings(settings_from({"BROKER_ENCRYPTION_KEYS": SEALING_KEY, name: value}))[name]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql+psycopg://broker:pa/ss@db.example/broker", "postgresql+psycopg://db.example/broker"),
        ("postgresql+psycopg://broker:pa#ss@db.example:5433/broker", "postgresql+psycopg://db.example:5433/broker"),
        ("postgresql+psycopg://broker:pa?ss@db.example/broker", "postgresql+psycopg://db.example/broker"),
        ("postgresql+psycopg://broker:p%40ss@[::1]/broker", "postgresql+psycopg://[::1]/broker"),
        ("postgresql+psycopg:///broker?host=/run/postgresql&password=pass", "postgresql+psycopg:///broker?…"),
        ("postgresql+psycopg://broker:pa@ss/word@db.example/broker", "(set)"),
        ("postgresql+psycopg://broker:pa@ss/word?x@db.example/broker", "(set)"),
        ("postgresql+psycopg://bro/ker:pass@db.example/broker", "(set)"),
        ("sqlite+aiosqlite:////var/lib/broker.db", "sqlite+aiosqlite:////var/lib/broker.db"),
    ],
)
def test_of_a_database_the_address_that_is_used_is_shown_and_never_a_password(url: str, address: str) -> None:
    assert shown("BROKER_DATABASE_URL", url) == address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://:pass@redis.example:6380/1?socket_timeout=1", "redis://redis.example:6380/1?…"),
        ("rediss://broker:p@ss@redis.example", "rediss://redis.example"),
        ("unix://:pass@/run/redis.sock?db=1", "unix:///run/redis.sock?…"),
        ("redis://:12/ss@redis.example", "(set)"),
        ("redis://:12#ss@redis.example", "(set)"),
        ("redis://:12?db=0&x@redis.example", "(set)"),
    ],
)
def test_of_redis_the_address_that_is_used_is_shown_and_never_a_password(url: str, address: str) -> None:
    assert shown("BROKER_REDIS_URL", url) == address
