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


def examples_of(shape: type[BaseModel]) -> list[Any]:
    """The examples that *shape* shows."""
    return list(shape.model_json_schema()["examples"])


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
    """The last thing that went wrong with a grant."""

    code: Annotated[str, Field(description="What the provider or the broker said")]
    at: Instant


_ALICE: dict[str, Any] = {
    "user": "alice",
    "application": "default",
    "state": "connected",
    "reason": None,
    "scope": "Office Manager",
    "generation": 7,
    "obtained_at": "2026-11-02T09:15:00Z",
    "renewed_at": "2026-11-23T13:58:32Z",
    "access_expires_at": "2026-11-23T14:58:32Z",
    "refresh_expires_at": "2027-02-21T13:58:32Z",
    "last_error": None,
    "retry_at": None,
}


class GrantStatus(BaseModel):
    """Where a grant stands; never its tokens."""

    model_config = example(_ALICE)

    user: str
    application: str
    state: GrantState
    reason: Annotated[Reason | None, Field(description="Why only the user can help")]
    scope: Annotated[str | None, Field(description="Versature's permission level: a name, never a list")]
    generation: Annotated[int, Field(description="Counts what was put in: connects, imports, renewals, a revocation")]
    obtained_at: Annotated[Instant | None, Field(description="When the user was connected, or the grant imported")]
    renewed_at: Annotated[Instant | None, Field(description="When it was last connected, imported or renewed")]
    access_expires_at: Annotated[Instant | None, Field(description="When the stored access token ends")]
    refresh_expires_at: Annotated[Instant | None, Field(description="When the refresh token ends, as far as known")]
    last_error: Annotated[LastError | None, Field(description="null when the last renewal went well")]
    retry_at: Annotated[Instant | None, Field(description="Until then the provider is not asked again")]


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
    """Some grants, and where to go on."""

    model_config = example({"items": [_ALICE], "next_cursor": None})

    items: list[GrantStatus]
    next_cursor: Annotated[str | None, Field(description="`cursor` of the next page; null on the last one")]


class Revocation(BaseModel):
    """How far a revocation has come."""

    model_config = example({"state": "revoked", "upstream": "revoked"})

    state: GrantState
    upstream: Annotated[UpstreamRevocation, Field(description="Whether the provider knows; it is told until it does")]


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
    """The call that gets a link for the user's browser."""

    method: str
    href: str


class FieldError(BaseModel):
    """What is wrong with one part of a request."""

    field: str
    message: str


class ProblemBody(BaseModel):
    """RFC 9457 problem details. `code` never changes its meaning; sentences may."""

    type: Annotated[str, Field(description="The address of a page that explains the code")]
    title: Annotated[str, Field(description="What the code means, in a few words")]
    status: Annotated[int, Field(description="The HTTP status again")]
    code: Annotated[str, Field(description="What programs should look at")]
    detail: Annotated[str, Field(description="A sentence for people")]
    request_id: Annotated[str, Field(description="To be found in the log")]
    reason: Annotated[Reason | None, Field(description="Of `reauthorization_required`: why")] = None
    connect: Annotated[ProblemConnect | None, Field(description="Where only the user can help: how to ask")] = None
    errors: Annotated[
        list[FieldError] | None, Field(description="Of `invalid_request`: what is wrong with which field")
    ] = None


class Alive(BaseModel):
    """The process answers."""

    model_config = example({"status": "ok", "version": "0.1.0"})

    status: str
    version: str


class ReadyPart(BaseModel):
    """One part of the broker."""

    status: Annotated[str, Field(description="ok, degraded or not_ready")]
    detail: Annotated[str | None, Field(description="What is wrong")] = None


class Ready(BaseModel):
    """The worst of all parts, and each of them."""

    model_config = example(
        {
            "status": "degraded",
            "parts": {
                "database": {"status": "ok"},
                "redis": {"status": "degraded", "detail": "Redis cannot be asked; the database serves in its place"},
            },
        }
    )

    status: Annotated[str, Field(description="ready, degraded (still answers 200) or not_ready (503)")]
    parts: dict[str, ReadyPart]
