"""The shapes on the wire of what operators send: registrations, rights, and how long a key is to live."""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from service.api.schemas import Body, example, no_truth
from service.core.access.administration import MOST_PATTERNS
from service.core.access.registration import MAX_TEXT_LENGTH
from service.core.model import GrantType, Scope
from service.core.names import MAX_USER_LENGTH, NAME_FORM, USER_FORM

_TEXT_FORM = r"^[^\x00-\x1f\x7f-\x9f]+$"

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def _may_repeat(schema: dict[str, Any]) -> None:
    """Said twice is said once."""
    schema.pop("uniqueItems", None)


def _rfc3339(value: object) -> object:
    if value is not None and not (isinstance(value, str) and _RFC3339.fullmatch(value)):
        raise ValueError("must be an instant as in RFC 3339, with its zone")
    return value


NewName = Annotated[
    str,
    Field(pattern=NAME_FORM, max_length=64, description="It never changes"),
]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LENGTH, json_schema_extra={"pattern": _TEXT_FORM})]
Url = Annotated[str, Field(min_length=1, max_length=2048, json_schema_extra={"format": "uri"})]
ClientSecret = Annotated[
    str,
    Field(min_length=1, max_length=4096, repr=False, description="Sealed at once and never shown"),
]
Kinds = Annotated[
    frozenset[GrantType],
    Field(min_length=1, description="What it may do", json_schema_extra=_may_repeat),
    PlainSerializer(sorted, return_type=list[GrantType]),
]
Scopes = Annotated[
    frozenset[Scope],
    Field(min_length=1, description="What it may do here", json_schema_extra=_may_repeat),
    PlainSerializer(sorted, return_type=list[Scope]),
]
_Pattern = Annotated[str, Field(min_length=1, max_length=MAX_USER_LENGTH, json_schema_extra={"pattern": USER_FORM})]
UserPatterns = Annotated[
    list[_Pattern],
    Field(
        max_length=MOST_PATTERNS,
        description="The users it may ask for; `*` stands for any characters and never includes `@company`",
    ),
]
ApplicationPatterns = Annotated[
    list[_Pattern], Field(min_length=1, max_length=MOST_PATTERNS, description="The applications it may use")
]


def _nothing() -> None:
    """A default that the documentation does not show: a member left out is no null."""


class NewApplication(Body):
    """An OAuth client registration at the provider. Endpoints left out follow from the base URL."""

    model_config = example(
        {
            "name": "billing",
            "client_id": "billing-client",
            "client_secret": "the-secret-that-versature-gave-you",
            "grant_types": ["client_credentials"],
        }
    )

    name: NewName
    client_id: Text
    client_secret: ClientSecret
    grant_types: Kinds
    base_url: Annotated[Url | None, Field(description="Of the provider's API; omitted, VERSATURE_BASE_URL now")] = None
    token_url: Annotated[Url | None, Field(description="If not `{base_url}/oauth/token/`")] = None
    authorize_url: Annotated[Url | None, Field(description="If not `{base_url}/oauth/authorize/`")] = None
    revocation_url: Annotated[
        Url | None, Field(description="Where the provider has one (RFC 7009), of the token URL's origin")
    ] = None
    oauth_scope: Annotated[Text | None, Field(description="The scope to ask the provider for")] = None
    vendor_id: Annotated[Text | None, Field(description="Sent as vendor_id with every token request")] = None
    pkce: Annotated[bool, Field(strict=True, description="Use PKCE with S256 (RFC 7636)")] = False


class ApplicationChanges(Body):
    """What is to be different (RFC 7396): a member left out stays, null takes away."""

    model_config = example({"client_secret": "the-new-secret-that-versature-gave-you"})

    client_id: Text = Field(default_factory=str, description="Grants stay bound to the one they were issued to")
    client_secret: ClientSecret = Field(default_factory=str)
    grant_types: Kinds = Field(default_factory=frozenset)
    token_url: Url = Field(
        default_factory=str,
        description="Grants stay bound to the one they were issued by; needs `client_secret`, which is sent there",
    )
    authorize_url: Url = Field(default_factory=str)
    revocation_url: Url | None = Field(
        default_factory=_nothing, description="Of the token URL's origin; needs `client_secret`, which is sent there"
    )
    oauth_scope: Text | None = Field(default_factory=_nothing)
    vendor_id: Text | None = Field(default_factory=_nothing)
    pkce: bool = Field(default_factory=bool, strict=True)


class DefaultChoice(Body):
    """For which grant types."""

    model_config = example({"grant_types": ["client_credentials"]})

    grant_types: Annotated[Kinds | None, Field(description="Omitted: all that the application allows")] = None


class NewCaller(Body):
    """An internal service and what it may ask for; whatever is not named is denied."""

    model_config = example({"name": "billing", "scopes": ["tokens"], "users": ["*"]})

    name: NewName
    scopes: Scopes
    users: UserPatterns = Field(default_factory=list)
    applications: Annotated[ApplicationPatterns, Field(description="Omitted: all, `*`")] = Field(
        default_factory=lambda: ["*"]
    )


class CallerChanges(Body):
    """What is to be different; a member left out stays."""

    model_config = example({"users": ["sales-*", "@company"]})

    scopes: Scopes = Field(default_factory=frozenset)
    users: UserPatterns = Field(default_factory=list)
    applications: ApplicationPatterns = Field(default_factory=list)


class NewKey(Body):
    """How long the key is to work: for so many seconds, until an instant, or, if neither is given, until removed."""

    model_config = example({"expires_in": 7776000})

    expires_in: Annotated[int | None, Field(gt=0, le=315_360_000, description="Seconds"), BeforeValidator(no_truth)] = (
        None
    )
    expires_at: Annotated[
        datetime | None, Field(description="RFC 3339, within ten years"), BeforeValidator(_rfc3339)
    ] = None

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> "NewKey":
        if self.expires_in is not None and self.expires_at is not None:
            raise ValueError("give expires_in or expires_at, not both")
        return self
