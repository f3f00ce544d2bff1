"""What the core needs from the outside, as protocols. Every adapter and every fake passes the same contract suite."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from service.core.model import (
    Application,
    Grant,
    GrantId,
    Reason,
    SealedTokens,
    TokenAnswer,
    UpstreamRevocation,
)
from service.core.records import (
    AuthorizationRequest,
    CachedToken,
    Due,
    EscrowEntry,
    Force,
    GrantFilter,
    Place,
    Setback,
    Standing,
)


class Keyring(Protocol):
    """Seals and opens secrets with AES-256-GCM-SIV under the first key it was given."""

    def seal(self, secret: str, place: Place) -> bytes: ...

    def open(self, sealed: bytes, place: Place, *, needed: bool = True) -> str:
        """The secret. Not *needed*: nothing is lost when it does not open, so that its key may be gone.

        Raises:
            SealBroken: the key is known and the tag fails: not what was sealed for this place.
            KeyUnavailable: the sealing key is not among ours.
        """
        ...


class SealBroken(Exception):
    """A sealed value fails its authentication tag."""


class AuthorizationServer(Protocol):
    """The provider's token and revocation endpoints; secrets arrive opened and leave with the request.

    Every method talks for at most the configured deadline in total and raises an `Outcome` (`core.redeeming.upstream`)
    when no token comes of it.
    """

    async def refresh(self, application: Application, client_secret: str, refresh_token: str) -> TokenAnswer:
        """RFC 6749 section 6."""
        ...

    async def client_credentials(self, application: Application, client_secret: str) -> TokenAnswer:
        """RFC 6749 section 4.4."""
        ...

    async def exchange_code(
        self, application: Application, client_secret: str, *, code: str, redirect_uri: str, verifier: str | None
    ) -> TokenAnswer:
        """RFC 6749 section 4.1.3, with RFC 7636 when there is a *verifier*."""
        ...

    async def revoke(self, application: Application, client_secret: str, token: str, *, hint: str) -> None:
        """RFC 7009; the application must have a revocation URL."""
        ...


class TokenCache(Protocol):
    """Sealed access tokens shared by all replicas. Never the truth, never an obstacle: no method raises.

    No token is ever written over an equal or higher generation; a tombstone yields to higher ones only.
    """

    async def get(self, grant: GrantId) -> CachedToken | None:
        """What is there, or None also when the cache cannot be asked."""
        ...

    async def put(self, grant: GrantId, generation: int, sealed: bytes, ttl: timedelta) -> None:
        """Remember a token for *ttl* at most."""
        ...

    async def bury(self, grant: GrantId, generation: int) -> None:
        """Leave a tombstone, so that nothing up to *generation* is handed out any more."""
        ...

    async def forget(self, grant: GrantId, *, up_to: int) -> None:
        """Remove whatever is there, even something newer, and leave a tombstone of generation *up_to*."""
        ...


class EscrowUnavailable(Exception):
    """An escrow could not be asked: which is not the same as that it holds nothing."""


class Escrow(Protocol):
    """Where sealed answers wait while the database cannot take them: at most one per grant and attempt.

    Every method raises `EscrowUnavailable` when it could not do its work, for whatever reason.
    """

    @property
    def unreadable(self) -> int:
        """How many entries `entries` left out when it was last asked."""
        ...

    async def put(self, entry: EscrowEntry) -> None:
        """Keep *entry*, in place of an earlier one of the same attempt, so that it survives this process."""
        ...

    async def look(self, grant: GrantId) -> Sequence[EscrowEntry]:
        """All that waits for *grant*. An entry that is there and cannot be read raises."""
        ...

    async def entries(self) -> Sequence[EscrowEntry]:
        """All that waits, the oldest first. Entries that cannot be read are left out, and complained of in the log."""
        ...

    async def check(self) -> None:
        """Find out whether an entry could be kept now."""
        ...

    async def remove(self, entry: EscrowEntry) -> None:
        """Its answer has arrived. Removing what is not there is no error."""
        ...


class GrantStore(Protocol):
    """The rows of the grants. Every method commits before it returns and raises `StoreUnavailable`."""

    async def get(self, grant: GrantId) -> Grant | None: ...

    async def standings(self, grants: Sequence[GrantId]) -> Mapping[GrantId, Standing]:
        """How each of *grants* stands, in as few queries as can be; those that do not exist are left out."""
        ...

    async def ensure(self, grant: GrantId) -> None:
        """Make sure there is a row to claim."""
        ...

    async def claim(
        self,
        grant: GrantId,
        *,
        generation: int,
        attempt_id: str,
        fingerprint: bytes,
        lease: timedelta,
        takeover: timedelta,
        force: Force | None = None,
    ) -> Grant | None:
        """Take the sole right to renew *grant*, for at most *lease* by the database's own clock.

        Returns the grant as it now stands (with `unfinished_generation` when this took over from an attempt that
        never ended), or None when somebody else holds the claim, has saved a newer generation, or the grant may not
        be renewed now. No database connection stays open: the caller is about to talk to the network.
        """
        ...

    async def save(
        self, grant: GrantId, *, generation: int, attempt_id: str, tokens: SealedTokens, at: datetime
    ) -> bool:
        """Put a renewal's answer in, as generation + 1, and end the claim, whoever holds it.

        False when the row is no longer at *generation*. A grant that was declared dead meanwhile is revived.
        """
        ...

    async def release(self, grant: GrantId, *, attempt_id: str, at_rest: bool = False) -> None:
        """End the claim of *attempt_id*, if it still holds; of a forced one its distance to the next forced one stays.

        *at_rest* keeps the background from the grant for `records.REST`.
        """
        ...

    async def note_setback(self, grant: GrantId, *, attempt_id: str, setback: Setback) -> None:
        """Record a failed attempt, if its claim still holds."""
        ...

    async def declare_dead(
        self, grant: GrantId, *, generation: int, attempt_id: str, reason: Reason, code: str, at: datetime
    ) -> bool:
        """Mark the grant `reauthorization_required` if it still is at *generation* and the claim still holds."""
        ...

    async def discard_access(self, grant: GrantId, *, generation: int) -> None:
        """Forget the access token of a grant still at *generation*: the provider rejects it, and none can replace it.

        A revoked grant keeps what the provider must yet be told.
        """
        ...

    async def connect(
        self, grant: GrantId, tokens: SealedTokens, *, at: datetime, attempt_id: str, late: bool = False
    ) -> Grant | None:
        """Put in what a code exchange brought, over whatever was there. Repeating an *attempt_id* changes nothing.

        None when *late*, which every try after the first is, and a connect, import or revocation since these *tokens*
        were issued stands already.
        """
        ...

    async def import_(self, grant: GrantId, tokens: SealedTokens, *, at: datetime) -> tuple[Grant, bool]:
        """Take over tokens obtained elsewhere; the flag says whether the grant was created.

        A refresh token that is stored or was spent here changes nothing, but for one thing: importing the one that is
        stored says anew to which client id and token URL it belongs, so that a mistyped setting can be mended.
        """
        ...

    async def revoke(
        self, grant: GrantId, *, upstream: UpstreamRevocation, at: datetime, retry_at: datetime
    ) -> Grant | None:
        """Make it unusable, once; others may tell the provider from *retry_at* on. None when there is no such grant."""
        ...

    async def finish_revocation(self, grant: GrantId, *, generation: int, upstream: UpstreamRevocation) -> None:
        """The provider knows of the revocation, or need not know any more: erase the secrets."""
        ...

    async def revive(self, grant: GrantId) -> Grant | None:
        """Let a dead grant that still holds what it needs be tried again. None when there is no such grant.

        The company's own needs nothing and comes back even from a revocation: no login could bring it back.
        """
        ...

    async def page(self, which: GrantFilter, *, after: GrantId | None, limit: int, now: datetime) -> Sequence[Grant]:
        """Up to *limit* grants in the order of (application, user), those after *after*."""
        ...


class RenewalQueue(Protocol):
    """What the background takes up from the grants' rows. Every method commits and raises `StoreUnavailable`."""

    async def claim_due(self, due: Due, *, attempt_id: str, lease: timedelta, takeover: timedelta) -> Sequence[Grant]:
        """Take the right to renew as many grants as *due* allows, those due longest first; one attempt for them all.

        Claims as `claim` does, and none that `claim` would refuse. Grants that nobody has asked for lately are taken
        off the list of those due, until they are asked for again. The pace is one row that all replicas share.
        """
        ...

    async def release_all(self, application: str, *, attempt_id: str) -> None:
        """End every claim of *attempt_id*, for which nothing was sent."""
        ...

    async def note_asked(self, grants: Sequence[GrantId], *, at: datetime) -> None:
        """Callers asked for these grants: they are worth renewing ahead of need. Unknown ones are skipped."""
        ...

    async def others_succeeded(self, grant: GrantId, *, since: datetime) -> bool:
        """Whether the provider gave tokens for another user's grant of the same application after *since*."""
        ...

    async def claim_revocations(self, *, limit: int, pause: timedelta) -> Sequence[Grant]:
        """Up to *limit* revoked grants of which the provider has yet to be told, each for whoever asks first.

        One is handed out again after *pause*, doubled with every time up to an hour; its revocation was the first.
        """
        ...


class AuthorizationStore(Protocol):
    """The rows of the authorization requests. Every method commits and raises `StoreUnavailable`."""

    async def add(self, request: AuthorizationRequest) -> None: ...

    async def find(self, ticket_digest: bytes) -> AuthorizationRequest | None: ...

    async def start(
        self,
        ticket_digest: bytes,
        *,
        state_digest: bytes,
        cookie_digest: bytes,
        sealed_verifier: bytes | None,
        at: datetime,
    ) -> bool:
        """Give the request a new state, which voids the last. False when it is completed or gone."""
        ...

    async def take(self, state_digest: bytes) -> AuthorizationRequest | None:
        """Take the state out, so that it works once, and make sure that its grant has a row."""
        ...

    async def complete(self, ticket_digest: bytes, *, at: datetime) -> None: ...
