"""The nouns of the house: frozen values that every floor may pass around."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

COMPANY = "@company"
"""The reserved user that stands for the application itself (client credentials, RFC 6749 section 4.4)."""


class GrantType(StrEnum):
    """How an application may obtain tokens (RFC 6749 section 4)."""

    CLIENT_CREDENTIALS = "client_credentials"
    AUTHORIZATION_CODE = "authorization_code"


def needed_grant_type(user: str) -> GrantType:
    """Which grant type serves *user*: the company itself by client credentials, everybody else by their own login."""
    return GrantType.CLIENT_CREDENTIALS if user == COMPANY else GrantType.AUTHORIZATION_CODE


class Scope(StrEnum):
    """What a caller may do with this broker; not to be confused with a token's scope upstream."""

    TOKENS = "tokens"
    GRANTS = "grants"
    ADMIN = "admin"


class GrantState(StrEnum):
    """Where a grant stands, as callers see it."""

    CONNECTED = "connected"
    REAUTHORIZATION_REQUIRED = "reauthorization_required"
    REVOKED = "revoked"


class Reason(StrEnum):
    """Why only the user can help."""

    REFRESH_TOKEN_EXPIRED = "refresh_token_expired"  # noqa: S105 - a word of the contract
    REVOKED = "revoked"
    REFUSED = "refused"
    NO_REFRESH_TOKEN = "no_refresh_token"  # noqa: S105 - a word of the contract
    LOST_IN_TRANSIT = "lost_in_transit"
    UNDECRYPTABLE = "undecryptable"

    @property
    def explanation(self) -> str:
        """One sentence for the service that asked."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Reason.REFRESH_TOKEN_EXPIRED: "The refresh token has reached the end of its life; the user must connect again.",
    Reason.REVOKED: "The grant was revoked; the user must connect again.",
    Reason.REFUSED: "The provider keeps refusing this grant without saying why; the user must connect again.",
    Reason.NO_REFRESH_TOKEN: "The provider gave no refresh token and the access token has ended; "
    "the user must connect again.",
    Reason.LOST_IN_TRANSIT: "An answer of the provider was lost and the refresh token with it; "
    "the user must connect again.",
    Reason.UNDECRYPTABLE: "The stored tokens fail their seal; the user must connect again.",
}


class UpstreamRevocation(StrEnum):
    """How far the revocation at the provider has come."""

    REVOKED = "revoked"
    PENDING = "pending"
    NOT_CONFIGURED = "not_configured"


@dataclass(frozen=True, slots=True)
class SealingKey:
    """A 256-bit key and the id that names it in sealed values."""

    id: str
    material: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class GrantId:
    """Which grant: an application's name and an exact, case-sensitive user."""

    application: str
    user: str

    @property
    def is_company(self) -> bool:
        return self.user == COMPANY

    @property
    def type(self) -> GrantType:
        """How its application gets tokens for it."""
        return needed_grant_type(self.user)


@dataclass(frozen=True, slots=True)
class Application:
    """One OAuth client registration at the provider; `sealed_secret` opens only at the moment of sending."""

    name: str
    client_id: str
    sealed_secret: bytes = field(repr=False)
    grant_types: frozenset[GrantType]
    token_url: str
    authorize_url: str
    revocation_url: str | None = None
    oauth_scope: str | None = None
    vendor_id: str | None = None
    pkce: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """An internal service and what it may ask for; patterns as `core.names` reads them."""

    name: str
    scopes: frozenset[Scope]
    users: tuple[str, ...]
    applications: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token with its times, all counted from the moment its request was sent."""

    value: str = field(repr=False)
    scope: str | None
    issued_at: datetime
    expires_at: datetime
    due_at: datetime
    generation: int


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What the provider said, read and checked (RFC 6749 section 5.1); None where it was silent."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    scope: str | None
    expires_in: timedelta | None
    sent_at: datetime
    clock_skew: timedelta | None = None


@dataclass(frozen=True, slots=True)
class SealedTokens:
    """A token answer made ready for storage: secrets sealed, instants absolute.

    A missing `refresh_sealed` means "keep what is stored" in a renewal and "there is none" in a connect or import.
    `refresh_digest` identifies the refresh token without revealing it.
    """

    access_sealed: bytes | None = field(repr=False)
    refresh_sealed: bytes | None = field(repr=False)
    refresh_digest: str | None = field(repr=False)
    scope: str | None
    issued_at: datetime
    access_expires_at: datetime | None
    due_at: datetime | None
    refresh_expires_at: datetime | None
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class WaitingAnswer:
    """An answer of the provider on its way into the database.

    `generation` is the one it is based on, and `based_on` when that was issued: a database that went back in time and
    on again may have another grant at the same generation. `ticket_digest` names the authorization request that it
    completes; None for a renewal.
    """

    grant: GrantId
    generation: int
    attempt_id: str
    received_at: datetime
    tokens: SealedTokens
    based_on: datetime | None = None
    ticket_digest: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """The exclusive, time-limited right to renew one grant. Still there after its lease: the attempt is unfinished."""

    attempt_id: str
    started_at: datetime
    lease_until: datetime


@dataclass(frozen=True, slots=True)
class Failure:
    """The last thing that went wrong with a grant, as its stored state tells it."""

    code: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Grant:
    """What the database holds for one (application, user).

    `refusals` counts those without an error code since the last success, the first of them at `refused_since`.
    `unfinished_generation` is the generation on which some attempt may have spent the refresh token without its
    answer being here, because it never arrived or the database went back in time; it stays until a later refresh token
    has worked.
    """

    id: GrantId
    state: GrantState
    reason: Reason | None
    generation: int
    fingerprint: bytes
    access_sealed: bytes | None = field(repr=False)
    refresh_sealed: bytes | None = field(repr=False)
    scope: str | None
    obtained_at: datetime | None
    renewed_at: datetime | None
    issued_at: datetime | None
    access_expires_at: datetime | None
    due_at: datetime | None
    refresh_expires_at: datetime | None
    claim: Claim | None
    unfinished_generation: int | None
    saved_attempt_id: str | None
    failures: int
    refusals: int
    refused_since: datetime | None
    last_error: Failure | None
    retry_at: datetime | None
    forced_until: datetime | None
    forced_interval: timedelta | None
    upstream_revocation: UpstreamRevocation | None

    def is_older_than(self, token: AccessToken) -> bool:
        """Whether *token* was put in after everything that this row knows of.

        Then its answer is still on its way here, or the database went back in time. A connect or import since then
        starts anew, whatever its generation.
        """
        return token.generation > self.generation and not self._entered_since(token.issued_at)

    def predates(self, answer: WaitingAnswer) -> bool:
        """Whether *answer* is based on something newer than this row: the database went back in time."""
        return answer.generation > self.generation and not self._entered_since(answer.tokens.issued_at)

    def has_left_behind(self, generation: int, kept_at: datetime) -> bool:
        """Whether an answer based on *generation* (0: a login), kept at *kept_at*, can no longer change this row."""
        return 0 < generation < self.generation or self._entered_since(kept_at)

    def is_another_than(self, answer: WaitingAnswer) -> bool:
        """Whether *answer* is based on the same generation as this row, of another history."""
        return (
            answer.ticket_digest is None and answer.generation == self.generation and answer.based_on != self.issued_at
        )

    def _entered_since(self, instant: datetime) -> bool:
        return self.obtained_at is not None and self.obtained_at > instant

    @property
    def exists(self) -> bool:
        """False for a row that was made only to be claimed and has never held anything."""
        return self.generation > 0 or self.id.is_company
