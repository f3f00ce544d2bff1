"""Grants, answers and directory entries as the suites put them into stores."""

import hashlib
from datetime import UTC, datetime, timedelta

from service.core.model import Application, Caller, Grant, GrantId, GrantType, Scope, SealedTokens, UpstreamRevocation
from service.core.ports import GrantStore
from service.core.records import ApiKey, AuthorizationRequest, Force

ALICE = GrantId("versature", "alice")
COMPANY = GrantId("versature", "@company")
T0 = datetime(2026, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
LEASE = timedelta(seconds=30)
TAKEOVER = timedelta(seconds=20)
FINGERPRINT = b"issued by this token URL to this client id"
ELSEWHERE = b"issued by another"


def digest(refresh_token: str) -> str:
    return hashlib.sha256(refresh_token.encode()).hexdigest()[:32]


def tokens(
    name: str,
    refresh_token: str | None = None,
    *,
    at: datetime = T0,
    scope: str | None = "Office Manager",
    fingerprint: bytes = FINGERPRINT,
) -> SealedTokens:
    """The access token *name*, living an hour from *at*, and its refresh token if there is one."""
    return SealedTokens(
        access_sealed=f"sealed {name}".encode(),
        refresh_sealed=None if refresh_token is None else f"sealed {refresh_token}".encode(),
        refresh_digest=None if refresh_token is None else digest(refresh_token),
        scope=scope,
        issued_at=at,
        access_expires_at=at + HOUR,
        due_at=at + HOUR * 0.75 + MICROSECOND,
        refresh_expires_at=None if refresh_token is None else at + timedelta(days=90),
        fingerprint=fingerprint,
    )


async def connected(grants: GrantStore, grant: GrantId = ALICE, refresh_token: str | None = "r1") -> Grant:
    """*grant* at generation 1, with the access token `a1`."""
    return await connect(grants, tokens("a1", refresh_token), "login", grant)


async def connect(
    grants: GrantStore, answer: SealedTokens, attempt_id: str, grant: GrantId = ALICE, *, at: datetime = T0
) -> Grant:
    """What a code exchange brought, put in."""
    done = await grants.connect(grant, answer, at=at, attempt_id=attempt_id)
    assert done is not None
    return done


async def revoke(
    grants: GrantStore,
    grant: GrantId = ALICE,
    *,
    upstream: UpstreamRevocation = UpstreamRevocation.PENDING,
    at: datetime = T0,
    retry_at: datetime = T0 + HOUR,
) -> Grant | None:
    return await grants.revoke(grant, upstream=upstream, at=at, retry_at=retry_at)


async def claim(
    grants: GrantStore,
    attempt_id: str,
    grant: GrantId = ALICE,
    *,
    generation: int = 1,
    fingerprint: bytes = FINGERPRINT,
    lease: timedelta = LEASE,
    takeover: timedelta = TAKEOVER,
    force: Force | None = None,
) -> Grant | None:
    return await grants.claim(
        grant,
        generation=generation,
        attempt_id=attempt_id,
        fingerprint=fingerprint,
        lease=lease,
        takeover=takeover,
        force=force,
    )


async def stored(grants: GrantStore, grant: GrantId = ALICE) -> Grant:
    found = await grants.get(grant)
    assert found is not None
    return found


def request(
    ticket: bytes = b"ticket", grant: GrantId = ALICE, *, expires_at: datetime = T0 + HOUR
) -> AuthorizationRequest:
    return AuthorizationRequest(
        ticket_digest=ticket, grant=grant, caller="crm", return_to="https://crm/back", expires_at=expires_at
    )


def application(name: str, *grant_types: GrantType) -> Application:
    return Application(
        name=name,
        client_id=f"{name}-id",
        sealed_secret=f"sealed secret of {name}".encode(),
        grant_types=frozenset(grant_types or {GrantType.AUTHORIZATION_CODE}),
        token_url="https://provider/token/",
        authorize_url="https://provider/authorize/",
    )


def caller(name: str, *scopes: Scope) -> Caller:
    return Caller(name, frozenset(scopes or {Scope.TOKENS}), ("*", "@company"), ("*",))


def key(name: str, owner: str, *, expires_at: datetime | None = None) -> ApiKey:
    return ApiKey(hashlib.sha256(name.encode()).digest(), owner, expires_at)
