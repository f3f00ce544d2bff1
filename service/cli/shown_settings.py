"""The settings as they were understood, for eyes that must not see a secret."""

from enum import Enum
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy import URL, make_url

from service.config import Settings

MASK = "(set)"
UNSET = "(not set)"
OPTIONS = "?…"


def shown_settings(settings: Settings) -> dict[str, str]:
    """Every setting by its variable's name; of secrets only that they are there, of addresses no credentials."""
    return {name.upper(): _shown(name, getattr(settings, name)) for name in type(settings).model_fields}


def _shown(name: str, value: object) -> str:
    if name == "broker_encryption_keys" and isinstance(value, tuple):
        return ", ".join(f"{key.id}:{MASK}" for key in value)
    if isinstance(value, SecretStr):
        address = _ADDRESSES.get(name)
        return address(value.get_secret_value()) if address else MASK
    if value is None or value in ((), ""):
        return UNSET
    if isinstance(value, tuple | frozenset):
        return ", ".join(sorted(str(part.value if isinstance(part, Enum) else part) for part in value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _database_address(url: str) -> str:
    """The address that SQLAlchemy understands: neither user nor password, nor options, which may hold either."""
    read = make_url(url)
    bare = URL.create(read.drivername, host=read.host, port=read.port, database=read.database).render_as_string()
    if url.count("@") > (0 if read.username is None else 1):
        return MASK  # some of a password may pass for an address
    return bare + (OPTIONS if read.query else "")


def _redis_address(url: str) -> str:
    """The same of what redis-py understands."""
    parts = urlsplit(url)
    if url.count("@") > parts.netloc.count("@"):
        return MASK
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" + (OPTIONS if parts.query else "")


_ADDRESSES = {"broker_database_url": _database_address, "broker_redis_url": _redis_address}
