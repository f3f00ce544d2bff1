"""The forms that values of settings have; what is malformed raises ValueError, whose words never quote the value."""

import base64
import binascii
import ipaddress
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from psycopg.conninfo import make_conninfo
from redis.asyncio.connection import Connection, parse_url
from sqlalchemy import make_url

from service.core.access.origins import origin_of
from service.core.access.registration import check_base_url, check_text, check_url
from service.core.errors import InvalidRequest
from service.core.model import SealingKey
from service.core.names import KEY_ID

KEY_BYTES = 32


def split(value: object) -> object:
    """The parts of a comma-separated list."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def parse_keys(value: object) -> tuple[SealingKey, ...]:
    """Sealing keys: id:base64, separated by commas."""
    keys: list[SealingKey] = []
    for entry in str(value).split(","):
        key_id, _, encoded = entry.strip().partition(":")
        try:
            material = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
        except binascii.Error:
            material = b""
        if not KEY_ID.fullmatch(key_id) or len(material) != KEY_BYTES:
            raise ValueError(f"every key must read id:base64-of-{KEY_BYTES}-bytes")
        keys.append(SealingKey(key_id, material))
    if len({key.id for key in keys}) < len(keys):
        raise ValueError("two keys have the same id")
    return tuple(keys)


def read_url(value: str) -> str:
    """An absolute http(s) URL."""
    return _read(value, check_url)


def read_base_url(value: str) -> str:
    """An absolute http(s) URL that paths can be put behind."""
    return _read(value, check_base_url)


def read_text(value: str) -> str:
    """A client id, scope or vendor id."""
    return _read(value, check_text)


def _read(value: str, check: Callable[[str], str]) -> str:
    try:
        return check(value)
    except InvalidRequest as wrong:
        raise ValueError(wrong.detail) from None


def check_database_url(value: str) -> str:
    """A file of SQLite, or a PostgreSQL with nothing but options that exist."""
    if not value.startswith(("sqlite+aiosqlite:///", "postgresql+psycopg://")):
        raise ValueError("must be sqlite+aiosqlite:///… or postgresql+psycopg://…")
    try:
        url = make_url(value)
        if value.startswith("postgresql"):
            make_conninfo("", **{name: str(option) for name, option in url.query.items()})
    except Exception:
        raise ValueError("is not a database URL that can be used") from None
    if url.database in {None, "", ":memory:"}:
        raise ValueError("must name a database")
    return value


def check_redis_url(value: str) -> str:
    """A URL from which a connection can be made, with nothing but options that exist."""
    if not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    try:
        options: dict[str, Any] = dict(parse_url(value))
        options.pop("connection_class", Connection)(**options)
    except Exception:
        raise ValueError("is not a Redis URL that can be used") from None
    return value


def read_origin(value: str) -> str:
    """Scheme, host and port, as URLs with the scheme's own port or without it are compared (RFC 6454)."""
    parts, origin = urlsplit(read_url(value)), origin_of(value)
    if parts.path.strip("/") or parts.query or origin is None:
        raise ValueError("an origin is scheme://host[:port] and nothing more")
    return origin


def read_network(value: str) -> str:
    """An IP address or network, without host bits."""
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("every proxy must be an IP address or network") from None
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def is_loopback(host: str) -> bool:
    """Whether *host* can only be this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def own_url(host: str, port: int) -> str:
    """The address at which this process listens."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
