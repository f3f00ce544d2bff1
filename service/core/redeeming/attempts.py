"""What becomes of attempts to renew: each ends in exactly one way, and one observer is told of it."""

from enum import StrEnum
from types import TracebackType
from typing import Protocol

from service.core.errors import (
    KeyUnavailable,
    ReauthorizationRequired,
    RenewalInProgress,
    StoreUnavailable,
    UpstreamError,
)
from service.core.model import GrantId, Reason


class Ending(StrEnum):
    """How an attempt can end; the first five brought the caller a token."""

    SAVED = "saved"
    ADOPTED = "adopted"
    ESCROWED = "escrowed"
    IN_MEMORY = "in_memory"
    DATABASE_BEHIND = "database_behind"
    RECOVERED = "recovered"
    NOT_SENT = "not_sent"
    AMBIGUOUS = "ambiguous"
    CLIENT_REFUSED = "client_refused"
    RATE_LIMITED = "rate_limited"
    REFUSED_WITHOUT_CODE = "refused_without_code"
    OTHER_REFUSAL = "other_refusal"
    INVALID_GRANT = "invalid_grant"
    DEAD_REFRESH_TOKEN_EXPIRED = "dead_refresh_token_expired"  # noqa: S105 - a name in a metric
    DEAD_REVOKED = "dead_revoked"
    DEAD_REFUSED = "dead_refused"
    DEAD_LOST_IN_TRANSIT = "dead_lost_in_transit"
    GUARDED = "guarded"
    OVERTAKEN = "overtaken"
    REVOKED_MEANWHILE = "revoked_meanwhile"
    UNDECRYPTABLE = "undecryptable"
    KEY_UNAVAILABLE = "key_unavailable"
    NO_CLAIM = "no_claim"
    CIRCUIT_OPEN = "circuit_open"
    LEASE_TOO_SHORT = "lease_too_short"
    STORE_UNAVAILABLE = "store_unavailable"
    BROKE_OFF = "broke_off"

    @property
    def explanation(self) -> str:
        """One line for the operator's handbook."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Ending.SAVED: "the answer is in the database",
    Ending.ADOPTED: "somebody newer had won; their token was taken",
    Ending.ESCROWED: "the answer waits in escrow for the database",
    Ending.IN_MEMORY: "the answer waits in memory: neither database nor escrow took it",
    Ending.DATABASE_BEHIND: "the answer is based on something newer than the database",
    Ending.RECOVERED: "the answer of an earlier attempt was found in escrow; nothing was sent",
    Ending.NOT_SENT: "no byte reached the provider",
    Ending.AMBIGUOUS: "sent, and no readable answer: the refresh token may be spent",
    Ending.CLIENT_REFUSED: "the provider refuses the application's registration or secret",
    Ending.RATE_LIMITED: "the provider limits our requests",
    Ending.REFUSED_WITHOUT_CODE: "refused without an error code",
    Ending.OTHER_REFUSAL: "a redirect, or an error code that no retry can mend",
    Ending.INVALID_GRANT: "`invalid_grant` for the company's own grant, which has nothing to lose",
    Ending.DEAD_REFRESH_TOKEN_EXPIRED: "declared dead: the refresh token was at the end of its life",
    Ending.DEAD_REVOKED: "declared dead: the provider or the user there ended it",
    Ending.DEAD_REFUSED: "declared dead: refused for an hour while others succeeded",
    Ending.DEAD_LOST_IN_TRANSIT: "declared dead, and it was lost by us",
    Ending.GUARDED: "`invalid_grant`, but too many in a row to be believed",
    Ending.OVERTAKEN: "refused, but somebody else had renewed the grant meanwhile",
    Ending.REVOKED_MEANWHILE: "the grant was revoked here while the provider was asked",
    Ending.UNDECRYPTABLE: "the stored refresh token fails its seal; nothing was sent",
    Ending.KEY_UNAVAILABLE: "a stored secret needs a sealing key that is not here; nothing was sent",
    Ending.NO_CLAIM: "another process held the claim, or the grant had moved on",
    Ending.CIRCUIT_OPEN: "the application's circuit had opened; nothing was sent",
    Ending.LEASE_TOO_SHORT: "too little of the claim, or of this process, was left to send anything",
    Ending.STORE_UNAVAILABLE: "the database is away or behind, or an escrow could not be looked into; nothing was sent",
    Ending.BROKE_OFF: "cut off by a shutdown or a defect of ours",
}

_OF_DEATH = {
    Reason.REFRESH_TOKEN_EXPIRED: Ending.DEAD_REFRESH_TOKEN_EXPIRED,
    Reason.REVOKED: Ending.DEAD_REVOKED,
    Reason.REFUSED: Ending.DEAD_REFUSED,
    Reason.LOST_IN_TRANSIT: Ending.DEAD_LOST_IN_TRANSIT,
}


def ending_of_death(reason: Reason) -> Ending:
    """How an attempt ends upon which a grant is declared dead for *reason*."""
    return _OF_DEATH[reason]


class Origin(StrEnum):
    """On whose initiative an attempt is made."""

    REQUEST = "request"
    BACKGROUND = "background"


class Observer(Protocol):
    """Told of every attempt twice: once when it begins, once when it has ended."""

    def attempt_began(self, grant: GrantId, origin: Origin) -> None: ...

    def attempt_ended(self, grant: GrantId, origin: Origin, ending: Ending) -> None: ...


class Attempt:
    """One attempt to renew one grant, from asking for the claim (or the place of the probe) to its end.

    `ends_as` says how it ends, the last word counting. Whoever says nothing leaves it to the error that ends the
    block; a block that ends well without a word broke off.
    """

    def __init__(self, grant: GrantId, origin: Origin, observer: Observer) -> None:
        self._grant, self._origin, self._observer = grant, origin, observer
        self._ending: Ending | None = None

    def ends_as(self, ending: Ending) -> None:
        self._ending = ending

    def __enter__(self) -> "Attempt":
        self._observer.attempt_began(self._grant, self._origin)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._observer.attempt_ended(self._grant, self._origin, self._ending or _ending_of(error))


def _ending_of(error: BaseException | None) -> Ending:
    """How an attempt ended that nobody had to classify: nothing was sent."""
    match error:
        case StoreUnavailable():
            return Ending.STORE_UNAVAILABLE
        case KeyUnavailable():
            return Ending.KEY_UNAVAILABLE
        case ReauthorizationRequired():
            return Ending.UNDECRYPTABLE
        case RenewalInProgress():
            return Ending.LEASE_TOO_SHORT
        case UpstreamError():
            return Ending.CIRCUIT_OPEN
        case _:
            return Ending.BROKE_OFF
