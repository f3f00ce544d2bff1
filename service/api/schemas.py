"""The shapes on the wire."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from service.core.broker import TokenBroker
from service.core.model import Grant, GrantState, Reason, Scope, UpstreamRevocation


def rfc3339(instant: datetime) -> str:
    """An instant as RFC 3339 with `Z`, to the microsecond where there are any."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


Instant = Annotated[
    datetime,
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class Body(BaseModel):
    """A request body: anything not named here is a mistake."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


def no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - the only one that pydantic reports
    return value


def example(members: dict[str, Any]) -> ConfigDict:
    """The configuration of a shape that shows one example in the documentation."""
    return ConfigDict(json_schema_extra={"examples": [members]})


class RejectedToken(Body):
    model_config = example({"access_token": "the-token-that-versature-answered-401"})

    access_token: Annotated[
        str, Field(min_length=1, max_length=16_384, repr=False, description="The token that was answered 401")
    ]


class ConnectInvitation(Body):
    model_config = example({"return_to": "https://crm.example/settings"})

    return_to: Annotated[
        str | None,
        Field(max_length=2048, description="Where to send the browser afterwards; its origin must be allowed"),
    ] = None


class GrantImport(Body):
    model_config = example({"refresh_token": "the-refresh-token-of-alice", "scope": "Office Manager"})

    refresh_token: Annotated[str, Field(min_length=1, max_length=16_384, repr=False, pattern=r"^[\x20-\x7e]+$")]
    access_token: Annotated[
        str | None, Field(min_length=1, max_length=16_384, repr=False, pattern=r"^[\x21-\x7e]+$")
    ] = None
    expires_in: Annotated[
        int | None,
        Field(gt=0, le=315_360_000, description="Seconds that the access token still lives"),
        BeforeValidator(no_truth),
    ] = None
    scope: Annotated[str | None, Field(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")] = None


class Token(BaseModel):
    """A valid access token."""

    model_config = example(
        {
            "access_token": "a-token-that-works-now",
            "token_type": "Bearer",
            "scope": "Office Manager",
            "expires_in": 3512,
            "expires_at": "2026-11-23T14:58:32Z",
        }
    )

    access_token: Annotated[str, Field(repr=False)]
    token_type: Annotated[str, Field(examples=["Bearer"])]
    scope: Annotated[str | None, Field(description="Versature's permission level: a name, never a list")]
    expires_in: Annotated[int, Field(description="Whole seconds left, rounded down")]
    expires_at: Instant


class ConnectLink(BaseModel):
    """A link for the user's browser, usable until the user is connected."""

    model_config = example(
        {"connect_url": "https://broker.example/connect/a-one-use-ticket", "expires_at": "2026-11-23T14:10:00Z"}
    )

    connect_url: Annotated[str, Field(repr=False)]
    expires_at: Instant


class LastError(BaseModel):
    code: str
    at: Instant


class GrantStatus(BaseModel):
    """Where a grant stands; never its tokens."""

    user: str
    application: str
    state: GrantState
    reason: Reason | None
    scope: str | None
    generation: int
    obtained_at: Instant | None
    renewed_at: Instant | None
    access_expires_at: Instant | None
    refresh_expires_at: Instant | None
    last_error: LastError | None
    retry_at: Instant | None


def grant_status(broker: TokenBroker, grant: Grant) -> GrantStatus:
    """What may be told of *grant*."""
    state, reason = broker.standing(grant)
    error = grant.last_error
    return GrantStatus(
        user=grant.id.user,
        application=grant.id.application,
        state=state,
        reason=reason,
        scope=grant.scope,
        generation=grant.generation,
        obtained_at=grant.obtained_at,
        renewed_at=grant.renewed_at,
        access_expires_at=grant.access_expires_at,
        refresh_expires_at=grant.refresh_expires_at,
        last_error=LastError(code=error.code, at=error.at) if error else None,
        retry_at=grant.retry_at,
    )


class GrantPage(BaseModel):
    items: list[GrantStatus]
    next_cursor: str | None


class Revocation(BaseModel):
    state: GrantState
    upstream: UpstreamRevocation


class Me(BaseModel):
    """What the calling key may do."""

    model_config = example(
        {"name": "crm", "scopes": ["grants", "tokens"], "users": ["*"], "applications": ["*"], "key_expires_at": None}
    )

    name: str
    scopes: list[Scope]
    users: list[str]
    applications: list[str]
    key_expires_at: Instant | None


class ProblemConnect(BaseModel):
    method: str
    href: str


class ProblemBody(BaseModel):
    """RFC 9457 problem details. `code` never changes its meaning; sentences may."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    reason: Reason | None = None
    connect: ProblemConnect | None = None
    errors: list[dict[str, str]] | None = None


class Alive(BaseModel):
    status: str
    version: str


class ReadyPart(BaseModel):
    status: str
    detail: str | None = None


class Ready(BaseModel):
    status: str
    parts: dict[str, ReadyPart]
