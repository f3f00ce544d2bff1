"""Who exists at this provider: a few people and two credentials. Made up, the same everywhere, and secret to nobody."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

SCOPE: Final = "Office Manager"
COMPANY_USER: Final = "@company"
DEFAULT_REDIRECT_URI: Final = "http://127.0.0.1:8000/oauth/callback"

# For demos only: the login page shows them to whoever opens it.
USERS: Final[Mapping[str, str]] = {"alice": "alice-password", "bob": "bob-password", "carol": "carol-password"}


@dataclass(frozen=True)
class Client:
    """A credential of the developer portal, made for one flow as Versature makes them."""

    id: str
    secret: str = field(repr=False)
    grant_types: frozenset[str]


COMPANY_CLIENT: Final = Client("sandbox-company", "sandbox-company-secret", frozenset({"client_credentials"}))
USER_CLIENT: Final = Client("sandbox-users", "sandbox-users-secret", frozenset({"authorization_code", "refresh_token"}))
CLIENTS: Final[Mapping[str, Client]] = {client.id: client for client in (COMPANY_CLIENT, USER_CLIENT)}


def same_secret(given: str, expected: str) -> bool:
    """Whether both are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())


def knows(user: str, password: str) -> bool:
    """Whether *user* may log in with *password*."""
    return user in USERS and same_secret(password, USERS[user])
