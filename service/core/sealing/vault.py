"""Turns secrets into what may be stored, and back: seals answers, opens grants and applications."""

import json
from collections.abc import Callable
from datetime import datetime

from service.core import lifetimes
from service.core.errors import KeyUnavailable, ReauthorizationRequired
from service.core.escrow import waiting
from service.core.model import (
    AccessToken,
    Application,
    Grant,
    GrantId,
    Reason,
    SealedTokens,
    TokenAnswer,
    WaitingAnswer,
)
from service.core.policy import Policy
from service.core.ports import Keyring, SealBroken
from service.core.records import CachedToken, EscrowEntry, Place
from service.core.sealing import digests


def application_place(name: str) -> Place:
    """Where an application's client secret belongs."""
    return Place("application", name, "", "client_secret")


def grant_place(grant: GrantId, field: str) -> Place:
    """Where a token of *grant* belongs: `access_token` or `refresh_token`."""
    return Place("grant", grant.application, grant.user, field)


def verifier_place(grant: GrantId) -> Place:
    """Where the PKCE verifier of an authorization request belongs."""
    return Place("authorization_request", grant.application, grant.user, "verifier")


class Vault:
    """The keyring, put to the uses of this house."""

    def __init__(self, keyring: Keyring, policy: Policy, jitter: Callable[[], float]) -> None:
        self._keyring, self._policy, self._jitter = keyring, policy, jitter

    def date(self, answer: TokenAnswer, *, generation: int, scope: str | None) -> AccessToken:
        """The answer's access token with its times, counted from the moment of sending."""
        life = lifetimes.bounded_life(answer.expires_in, self._policy.unstated_life)
        return AccessToken(
            value=answer.access_token,
            scope=scope,
            issued_at=answer.sent_at,
            expires_at=answer.sent_at + life,
            due_at=lifetimes.due_at(answer.sent_at, life, self._jitter()),
            generation=generation,
        )

    def seal(
        self,
        grant: GrantId,
        application: Application,
        *,
        access: AccessToken | None,
        refresh_token: str | None,
        scope: str | None,
        at: datetime,
    ) -> SealedTokens:
        """Tokens that *application* obtained at *at*, ready for storage."""
        refresh_sealed = digest = None
        if refresh_token is not None:
            refresh_sealed = self._keyring.seal(refresh_token, grant_place(grant, "refresh_token"))
            digest = digests.refresh_digest(grant, refresh_token)
        return SealedTokens(
            access_sealed=self._keyring.seal(access.value, grant_place(grant, "access_token")) if access else None,
            refresh_sealed=refresh_sealed,
            refresh_digest=digest,
            scope=scope,
            issued_at=at,
            access_expires_at=access.expires_at if access else None,
            due_at=access.due_at if access else None,
            refresh_expires_at=at + self._policy.refresh_token_life if refresh_token is not None else None,
            fingerprint=digests.fingerprint(application),
        )

    def open_access(self, grant: Grant) -> AccessToken | None:
        """The stored access token, or None when there is none or its seal is broken.

        Raises:
            KeyUnavailable: it is sealed with a key that we do not have.
        """
        if grant.access_sealed is None or not (grant.issued_at and grant.access_expires_at and grant.due_at):
            return None
        try:
            value = self._keyring.open(grant.access_sealed, grant_place(grant.id, "access_token"))
        except SealBroken:
            return None
        return AccessToken(value, grant.scope, grant.issued_at, grant.access_expires_at, grant.due_at, grant.generation)

    def open_refresh(self, grant: Grant) -> str:
        """The stored refresh token.

        Raises:
            ReauthorizationRequired: there is none, or its seal is broken.
            KeyUnavailable: it is sealed with a key that we do not have.
        """
        if grant.refresh_sealed is None:
            raise ReauthorizationRequired(grant.id, Reason.NO_REFRESH_TOKEN)
        try:
            return self._keyring.open(grant.refresh_sealed, grant_place(grant.id, "refresh_token"))
        except SealBroken:
            raise ReauthorizationRequired(grant.id, Reason.UNDECRYPTABLE) from None

    def seal_cached(self, grant: GrantId, token: AccessToken) -> bytes:
        """*token* with its times, for the shared cache."""
        instants = (token.issued_at, token.expires_at, token.due_at)
        fields = [token.value, token.scope, *(instant.isoformat() for instant in instants)]
        return self._keyring.seal(json.dumps(fields), _cached_place(grant, token.generation))

    def open_cached(self, grant: GrantId, cached: CachedToken) -> AccessToken | None:
        """The token of an entry, or None for a tombstone and for what was not sealed for this place and generation."""
        if cached.sealed is None:
            return None
        try:
            place = _cached_place(grant, cached.generation)
            fields = json.loads(self._keyring.open(cached.sealed, place, needed=False))
        except (SealBroken, KeyUnavailable):
            return None
        value, scope, *instants = fields
        issued_at, expires_at, due_at = (datetime.fromisoformat(instant) for instant in instants)
        return AccessToken(value, scope, issued_at, expires_at, due_at, cached.generation)

    def seal_waiting(self, answer: WaitingAnswer) -> EscrowEntry:
        """*answer* for an escrow. Its secrets stay sealed for the row as well, so that nobody needs to open them."""
        sealed = self._keyring.seal(
            waiting.dump(answer), _escrow_place(answer.grant, answer.generation, answer.attempt_id)
        )
        return EscrowEntry(answer.grant, answer.generation, answer.attempt_id, answer.received_at, sealed)

    def open_waiting(self, entry: EscrowEntry) -> WaitingAnswer:
        """The answer of an escrow's entry.

        Raises:
            SealBroken: it was not sealed for this grant, generation and attempt.
            KeyUnavailable: it is sealed with a key that we do not have.
        """
        place = _escrow_place(entry.grant, entry.generation, entry.attempt_id)
        return waiting.load(self._keyring.open(entry.sealed, place), entry)

    def open_answer(self, grant: GrantId, tokens: SealedTokens) -> tuple[str, bool] | None:
        """What to hand back to the provider of an answer that nobody wants: the token, and whether it is for refresh.

        Raises:
            KeyUnavailable: it is sealed with a key that we do not have.
        """
        try:
            if tokens.refresh_sealed is not None:
                return self._keyring.open(tokens.refresh_sealed, grant_place(grant, "refresh_token")), True
            if tokens.access_sealed is not None:
                return self._keyring.open(tokens.access_sealed, grant_place(grant, "access_token")), False
        except SealBroken:
            return None
        return None

    def seal_client_secret(self, name: str, secret: str) -> bytes:
        return self._keyring.seal(secret, application_place(name))

    def open_client_secret(self, application: Application) -> str:
        """The application's client secret.

        Raises:
            KeyUnavailable: it cannot be opened with the keys we have.
        """
        try:
            return self._keyring.open(application.sealed_secret, application_place(application.name))
        except SealBroken:
            raise KeyUnavailable from None


def _cached_place(grant: GrantId, generation: int) -> Place:
    return Place("cache", grant.application, grant.user, f"access_token:{generation}")


def _escrow_place(grant: GrantId, generation: int, attempt_id: str) -> Place:
    return Place("escrow", grant.application, grant.user, f"answer:{generation}:{attempt_id}")
