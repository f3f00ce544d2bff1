"""The shapes on the wire of what operators are shown: no secret, but a new key this once."""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from service.api.schemas import Instant, example, examples_of
from service.core.access.administration import IssuedKey
from service.core.model import Application, Caller, GrantType, Scope
from service.core.records import ApiKey


class ApplicationView(BaseModel):
    """An application; never its client secret."""

    model_config = example(
        {
            "name": "billing",
            "source": "stored",
            "client_id": "billing-client",
            "grant_types": ["client_credentials"],
            "default_for": [],
            "token_url": "https://integrate.versature.com/api/oauth/token/",
            "authorize_url": "https://integrate.versature.com/api/oauth/authorize/",
            "revocation_url": None,
            "oauth_scope": None,
            "vendor_id": None,
            "pkce": False,
        }
    )

    name: Annotated[str, Field(examples=["billing"])]
    source: Annotated[
        Literal["settings", "stored"], Field(description="What the settings define can only be changed there")
    ]
    client_id: str
    grant_types: list[GrantType]
    default_for: Annotated[
        list[GrantType], Field(description="The grant types for which it serves requests that name no application")
    ]
    token_url: str
    authorize_url: str
    revocation_url: str | None
    oauth_scope: str | None
    vendor_id: str | None
    pkce: bool


class ApplicationPage(BaseModel):
    """Some applications, and where to go on."""

    model_config = example({"items": examples_of(ApplicationView), "next_cursor": None})

    items: list[ApplicationView]
    next_cursor: Annotated[str | None, Field(description="`cursor` of the next page; null on the last one")]


class CallerView(BaseModel):
    """A caller; never its keys."""

    model_config = example({"name": "billing", "scopes": ["tokens"], "users": ["*"], "applications": ["*"]})

    name: Annotated[str, Field(examples=["billing"])]
    scopes: list[Scope]
    users: list[str]
    applications: list[str]


class CallerPage(BaseModel):
    """Some callers, and where to go on."""

    model_config = example({"items": examples_of(CallerView), "next_cursor": None})

    items: list[CallerView]
    next_cursor: Annotated[str | None, Field(description="`cursor` of the next page; null on the last one")]


class KeyView(BaseModel):
    """What may be told of a key; never the key."""

    model_config = example({"id": "5f0c2a91", "created_at": "2026-11-23T14:00:00Z", "expires_at": None})

    id: Annotated[str, Field(description="Tells the caller's keys apart, and is no part of the key")]
    created_at: Annotated[Instant | None, Field(description="null: before this was noted")]
    expires_at: Instant | None


class KeyList(BaseModel):
    """All keys of a caller, expired ones too."""

    model_config = example({"items": examples_of(KeyView)})

    items: list[KeyView]


class IssuedKeyView(KeyView):
    """A new key. It is shown this once."""

    model_config = example(
        {
            "id": "5f0c2a91",
            "created_at": "2026-11-23T14:00:00Z",
            "expires_at": None,
            "key": "vtb_and-43-characters-more",
        }
    )

    key: Annotated[str, Field(repr=False, description="To be sent as `Authorization: Bearer …`")]


class NewCallerView(CallerView):
    """A new caller with its first key, which is shown this once."""

    model_config = example(
        {
            "name": "billing",
            "scopes": ["tokens"],
            "users": ["*"],
            "applications": ["*"],
            "key": {
                "id": "5f0c2a91",
                "created_at": "2026-11-23T14:00:00Z",
                "expires_at": None,
                "key": "vtb_and-43-characters-more",
            },
        }
    )

    key: IssuedKeyView


def application_view(
    application: Application, *, from_settings: bool, default_for: Collection[GrantType]
) -> ApplicationView:
    return ApplicationView(
        name=application.name,
        source="settings" if from_settings else "stored",
        client_id=application.client_id,
        grant_types=sorted(application.grant_types),
        default_for=sorted(default_for),
        token_url=application.token_url,
        authorize_url=application.authorize_url,
        revocation_url=application.revocation_url,
        oauth_scope=application.oauth_scope,
        vendor_id=application.vendor_id,
        pkce=application.pkce,
    )


def _caller_fields(caller: Caller) -> dict[str, Any]:
    return {
        "name": caller.name,
        "scopes": sorted(caller.scopes),
        "users": list(caller.users),
        "applications": list(caller.applications),
    }


def caller_view(caller: Caller) -> CallerView:
    return CallerView(**_caller_fields(caller))


def new_caller_view(caller: Caller, issued: IssuedKey) -> NewCallerView:
    return NewCallerView(**_caller_fields(caller), key=issued_key_view(issued))


def key_view(key: ApiKey) -> KeyView:
    return KeyView(id=key.id, created_at=key.created_at, expires_at=key.expires_at)


def issued_key_view(issued: IssuedKey) -> IssuedKeyView:
    key = issued.record
    return IssuedKeyView(id=key.id, created_at=key.created_at, expires_at=key.expires_at, key=issued.secret)
