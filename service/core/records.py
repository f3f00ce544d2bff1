"""What goes through the ports besides the nouns of `core.model`: rows, filters, notes."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto

from service.core.model import AccessToken, Application, Caller, GrantId, GrantState, GrantType

FIRST_KEY = "first"
"""The id of a key that was stored before keys had ids."""

REST = timedelta(hours=1)
"""For how long the background leaves a grant alone that it could not even open."""


@dataclass(frozen=True, slots=True)
class Place:
    """The logical place that a sealed value is bound to; moved anywhere else, it does not open."""

    kind: str
    application: str
    user: str
    field: str


@dataclass(frozen=True, slots=True)
class Force:
    """What a claim for a forced renewal writes so that the next one keeps its distance."""

    until: datetime
    interval: timedelta


@dataclass(frozen=True, slots=True)
class Setback:
    """One failed attempt, as noted in the grant's row; `finished` False leaves the claim standing (rule 5).

    `uncoded` marks a refusal without an error code, which counts towards the reason `refused` (rule 6); `spent` that
    nothing was sent because the refresh token in the row was used before, by an attempt of which the row knows nothing.
    """

    code: str
    at: datetime
    retry_at: datetime
    finished: bool
    uncoded: bool = False
    spent: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """Which grants of one application the background may claim now: users' grants, or the company's own.

    Those due whose users were asked for since `active_since` (None: none of them), and idle ones that hold a refresh
    token and were last renewed before `idle_since`; up to `limit` of them, and no more than the whole fleet's pace of
    `per_second` allows.
    """

    application: str
    grant_type: GrantType
    fingerprint: bytes
    active_since: datetime | None
    idle_since: datetime
    limit: int
    per_second: float


@dataclass(frozen=True, slots=True)
class EscrowEntry:
    """An answer that waits for the database, as an escrow sees it: whose it is in the clear, all else sealed.

    `generation` is the one that the answer is based on.
    """

    grant: GrantId
    generation: int
    attempt_id: str
    kept_at: datetime
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class GrantFilter:
    """Which grants a listing shows; `users` and `applications` are patterns, None everything."""

    application: str | None = None
    state: GrantState | None = None
    users: tuple[str, ...] | None = None
    applications: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class CachedToken:
    """An entry of the shared cache; without `sealed` it is a tombstone."""

    generation: int
    sealed: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Standing:
    """The little that confirms a cached token: it is the grant's current one, and nobody is renewing it.

    `issued_at` tells tokens of equal generation apart, should a cache outlive its database. `has_token` is False once
    the token was discarded.
    """

    generation: int
    issued_at: datetime | None
    state: GrantState
    claimed: bool
    has_token: bool

    def confirms(self, token: AccessToken) -> bool:
        """Whether *token* is the grant's current one."""
        return self.has_token and (self.generation, self.issued_at) == (token.generation, token.issued_at)


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """One trip of one browser to the provider. Ticket, state and cookie are kept as digests only."""

    ticket_digest: bytes = field(repr=False)
    grant: GrantId
    caller: str
    return_to: str | None
    expires_at: datetime
    completed_at: datetime | None = None
    started_at: datetime | None = None
    cookie_digest: bytes | None = field(default=None, repr=False)
    sealed_verifier: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key of one caller, known by its SHA-256 digest only.

    `id` tells the keys of one caller apart and says nothing of the key; those from before there were ids, one per
    caller, are all called `FIRST_KEY`, and when they were made is not known.
    """

    digest: bytes = field(repr=False)
    caller: str
    expires_at: datetime | None = None
    id: str = FIRST_KEY
    created_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether it has not expired yet."""
        return self.expires_at is None or now < self.expires_at


class KeyAddition(Enum):
    """What became of a further key."""

    ADDED = auto()
    NO_CALLER = auto()
    TOO_MANY = auto()


@dataclass(frozen=True, slots=True)
class DirectoryRows:
    """Everything stored about callers and applications, at one version; applications in the order they were added."""

    version: int
    callers: tuple[Caller, ...]
    keys: tuple[ApiKey, ...]
    applications: tuple[Application, ...]
    defaults: dict[GrantType, str]
