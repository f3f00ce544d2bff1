"""OAuth client registrations as somebody enters and changes them, and what makes them acceptable."""

import unicodedata
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict
from urllib.parse import urlsplit

from service.core.access.origins import origin_of
from service.core.errors import InvalidRequest
from service.core.model import Application, GrantType
from service.core.names import check_name
from service.core.sealing.vault import Vault

MAX_TEXT_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class Registration:
    """One OAuth client registration as somebody enters it; endpoints left out follow from `base_url`."""

    name: str
    client_id: str
    client_secret: str = field(repr=False)
    grant_types: frozenset[GrantType]
    base_url: str | None
    token_url: str | None = None
    authorize_url: str | None = None
    revocation_url: str | None = None
    oauth_scope: str | None = None
    vendor_id: str | None = None
    pkce: bool = False


class RegistrationChanges(TypedDict, total=False):
    """What is to be different; what is not named stays. None takes away what an application can do without."""

    client_id: str
    client_secret: str
    grant_types: frozenset[GrantType]
    token_url: str
    authorize_url: str
    revocation_url: str | None
    oauth_scope: str | None
    vendor_id: str | None
    pkce: bool


def seal_registration(registration: Registration, vault: Vault) -> Application:
    """The application that *registration* describes, its secret sealed.

    Raises:
        InvalidRequest: a name, text, URL or list is not acceptable.
    """
    check_name(registration.name)
    if not registration.base_url:
        raise InvalidRequest("An application needs a base URL.")
    base = check_base_url(registration.base_url).rstrip("/")
    return _checked(
        Application(
            name=registration.name,
            client_id=registration.client_id,
            sealed_secret=_seal(registration.name, registration.client_secret, vault),
            grant_types=registration.grant_types,
            token_url=registration.token_url or f"{base}/oauth/token/",
            authorize_url=registration.authorize_url or f"{base}/oauth/authorize/",
            revocation_url=registration.revocation_url or None,
            oauth_scope=registration.oauth_scope,
            vendor_id=registration.vendor_id,
            pkce=registration.pkce,
        )
    )


def apply_changes(application: Application, changes: RegistrationChanges, vault: Vault) -> Application:
    """*application* as *changes* make it; its grants stay bound to whom they were issued to.

    The client secret goes to the token URL and to the revocation URL. Who may change them must know it, or could have
    it sent to an address of their own.

    Raises:
        InvalidRequest: a text, URL or list is not acceptable, or the client secret is needed and missing.
    """
    fields: dict[str, Any] = {**changes}
    secret = fields.pop("client_secret", None)
    if secret is not None:
        fields["sealed_secret"] = _seal(application.name, secret, vault)
    changed = _checked(replace(application, **fields))
    if _receivers(changed) <= _receivers(application):
        return changed
    if secret is None:
        raise InvalidRequest("Give the client secret again, too: it will be sent to another URL.")
    return revocable_at_home(changed)


def _receivers(application: Application) -> set[str]:
    """Where the client secret and refresh tokens are sent."""
    return {url for url in (application.token_url, application.revocation_url) if url is not None}


def revocable_at_home(application: Application) -> Application:
    """*application*, if it sends refresh tokens that are to be revoked to where they were issued.

    A grant is bound to a token URL; a revocation URL elsewhere would be a way around that.

    Raises:
        InvalidRequest: its revocation URL is elsewhere.
    """
    revocation_url = application.revocation_url
    if revocation_url is not None and origin_of(revocation_url) != origin_of(application.token_url):
        raise InvalidRequest("The revocation URL must have the origin of the token URL.")
    return application


def _seal(name: str, client_secret: str, vault: Vault) -> bytes:
    if not client_secret:
        raise InvalidRequest("An application needs a client secret.")
    return vault.seal_client_secret(name, client_secret)


def _checked(application: Application) -> Application:
    if not application.grant_types:
        raise InvalidRequest("An application needs at least one grant type.")
    if not application.client_id:
        raise InvalidRequest("An application needs a client id.")
    for text in (application.client_id, application.oauth_scope, application.vendor_id):
        check_text(text or "")
    for url in (application.token_url, application.authorize_url, application.revocation_url):
        if url is not None:
            check_url(url)
    return application


def check_text(text: str) -> str:
    """*text*, if a client id, scope or vendor id may read like that.

    Raises:
        InvalidRequest: it may not.
    """
    if len(text) > MAX_TEXT_LENGTH or any(unicodedata.category(char) in {"Cc", "Cs"} for char in text):
        raise InvalidRequest(f"Client id, scope and vendor id have at most {MAX_TEXT_LENGTH} printable characters.")
    return text


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


def check_base_url(url: str) -> str:
    """*url*, if it is one that `check_url` takes and paths can be put behind.

    Raises:
        InvalidRequest: it is not.
    """
    if "?" in check_url(url) or "#" in url:
        raise InvalidRequest("A base URL has neither query nor fragment: paths are put behind it.")
    return url
