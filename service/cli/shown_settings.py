"""The settings as they were understood, for eyes that must not see a secret."""

from enum import Enum
from urllib.parse import urlsplit

from pydantic import SecretStr

from service.config import Settings

MASK = "(set)"
UNSET = "(not set)"
_ADDRESSES = frozenset({"broker_database_url", "broker_redis_url"})


def shown_settings(settings: Settings) -> dict[str, str]:
    """Every setting by its variable's name; of secrets only that they are there, of addresses no credentials."""
    return {name.upper(): _shown(name, getattr(settings, name)) for name in type(settings).model_fields}


def _shown(name: str, value: object) -> str:
    if name == "broker_encryption_keys" and isinstance(value, tuple):
        return ", ".join(f"{key.id}:{MASK}" for key in value)
    if name in _ADDRESSES and isinstance(value, SecretStr):
        return without_credentials(value.get_secret_value())
    if isinstance(value, SecretStr):
        return MASK
    if value is None or value in ((), ""):
        return UNSET
    if isinstance(value, tuple | frozenset):
        return ", ".join(sorted(str(part.value if isinstance(part, Enum) else part) for part in value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def without_credentials(url: str) -> str:
    """The address alone: neither user nor password, nor options, which may hold either."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{address}{parts.path}" + ("?…" if parts.query else "")
