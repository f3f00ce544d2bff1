"""Decisions about callers and applications, the same for the command line and any other way in."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from service.core.digests import secret_digest
from service.core.errors import ApplicationNotFound, Conflict, InvalidRequest, ResourceNotFound
from service.core.model import Application, Caller, GrantType, Scope
from service.core.names import check_name
from service.core.ports import DirectoryStore
from service.core.records import ApiKey
from service.core.vault import Vault

KEY_PREFIX = "vtb_"


@dataclass(frozen=True, slots=True)
class Registration:
    """One OAuth client registration as somebody enters it; endpoints left out follow from `base_url`."""

    name: str
    client_id: str
    client_secret: str = field(repr=False)
    grant_types: frozenset[GrantType]
    base_url: str
    token_url: str | None = None
    authorize_url: str | None = None
    revocation_url: str | None = None
    oauth_scope: str | None = None
    vendor_id: str | None = None
    pkce: bool = False


def seal_registration(registration: Registration, vault: Vault) -> Application:
    """The application that *registration* describes, its secret sealed.

    Raises:
        InvalidRequest: a name, URL or list is not acceptable.
    """
    check_name(registration.name)
    if not registration.grant_types:
        raise InvalidRequest("An application needs at least one grant type.")
    if not registration.client_id or not registration.client_secret:
        raise InvalidRequest("An application needs a client id and a client secret.")
    base = check_url(registration.base_url).rstrip("/")
    return Application(
        name=registration.name,
        client_id=registration.client_id,
        sealed_secret=vault.seal_client_secret(registration.name, registration.client_secret),
        grant_types=registration.grant_types,
        token_url=check_url(registration.token_url or f"{base}/oauth/token/"),
        authorize_url=check_url(registration.authorize_url or f"{base}/oauth/authorize/"),
        revocation_url=check_url(registration.revocation_url) if registration.revocation_url else None,
        oauth_scope=registration.oauth_scope,
        vendor_id=registration.vendor_id,
        pkce=registration.pkce,
    )


def check_url(url: str) -> str:
    """*url*, if it is an absolute http(s) URL without credentials or fragment.

    Raises:
        InvalidRequest: it is not.
    """
    wrong = InvalidRequest("An endpoint must be an absolute http or https URL without credentials or fragment.")
    try:
        parts = urlsplit(url)
        acceptable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise wrong from None
    if not acceptable or "@" in parts.netloc or parts.fragment or any(ord(char) <= 0x20 for char in url):
        raise wrong
    return url


class Administration:
    """Adds, changes and removes callers and applications."""

    def __init__(self, store: DirectoryStore, vault: Vault, *, reserved: Sequence[str]) -> None:
        """*reserved* are names for applications that the settings define."""
        self._store, self._vault, self._reserved = store, vault, frozenset(reserved)

    async def add_application(self, registration: Registration) -> Application:
        """Store a new application.

        Raises:
            Conflict: the name is taken.
            InvalidRequest: see `seal_registration`.
        """
        application = seal_registration(registration, self._vault)
        if application.name in self._reserved:
            raise Conflict("This name belongs to the application that the settings define.")
        if not await self._store.add_application(application):
            raise Conflict("An application of this name exists.")
        return application

    async def remove_application(self, name: str) -> None:
        """Forget the registration; its grants stay, and work again when it returns.

        Raises:
            ApplicationNotFound: there is none of this name.
        """
        if not await self._store.remove_application(name):
            raise ApplicationNotFound("There is no stored application of this name.")

    async def set_default(self, name: str, grant_types: frozenset[GrantType]) -> None:
        """Let *name* serve the requests that name no application, for each of *grant_types*."""
        for grant_type in sorted(grant_types):
            await self._store.set_default(grant_type, name)

    async def add_caller(self, caller: Caller, key: str | None = None) -> str:
        """Add *caller* and return its only key, a new one unless *key* is given; it is shown this once.

        Raises:
            Conflict: the name is taken.
            InvalidRequest: the name is malformed, or a list is empty.
        """
        check_name(caller.name)
        if caller.name == "admin":
            raise Conflict("The name admin belongs to the key from the settings.")
        if not caller.scopes or not caller.applications or (not caller.users and caller.scopes != {Scope.ADMIN}):
            raise InvalidRequest("A caller needs at least one scope, one user pattern and one application pattern.")
        key = key or new_key()
        if not await self._store.add_caller(caller, ApiKey(secret_digest(key), caller.name)):
            raise Conflict("A caller of this name exists.")
        return key

    async def remove_caller(self, name: str) -> None:
        """Forget the caller and its keys.

        Raises:
            ResourceNotFound: there is no such caller.
        """
        if not await self._store.remove_caller(name):
            raise ResourceNotFound("There is no caller of this name.")

    async def rotate_key(self, name: str) -> str:
        """Replace the caller's keys by a new one, which is shown this once.

        Raises:
            ResourceNotFound: there is no such caller.
        """
        key = new_key()
        if not await self._store.replace_keys(name, ApiKey(secret_digest(key), name)):
            raise ResourceNotFound("There is no caller of this name.")
        return key


def new_key() -> str:
    """An API key: 256 random bits in base64url."""
    return KEY_PREFIX + secrets.token_urlsafe(32)
