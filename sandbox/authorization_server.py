"""The provider's memory and rules: codes, families, refresh tokens, access tokens. No HTTP, no clock of its own."""

import base64
import hashlib
import secrets
from collections.abc import Callable

from sandbox.directory import COMPANY_USER
from sandbox.issued import AccessToken, Code, Family, Issue, RefreshToken
from sandbox.refusals import Refusal
from sandbox.switches import Switches


class AuthorizationServer:
    """Issues, redeems and ends tokens.

    Each method is one step that happens wholly or, when it raises, not at all, but for the two punishments that the
    RFCs ask for: a used code or a spent refresh token that comes back ends its family.
    """

    def __init__(self, now: Callable[[], float], *, mark: str = "") -> None:
        """Every code and token begins with *mark*, so that a test can find it wherever it got to."""
        self._now, self._mark = now, mark
        self._codes: dict[str, Code] = {}
        self._refresh_tokens: dict[str, RefreshToken] = {}
        self._access_tokens: dict[str, AccessToken] = {}
        self._families: list[Family] = []

    def issue_code(
        self, *, client_id: str, user: str, redirect_uri: str, challenge: str | None, switches: Switches
    ) -> str:
        """A new authorization code for *user*, who has just agreed; *challenge* is PKCE's S256, if there was one."""
        expires_at = self._now() + switches.code_lifetime_seconds
        code = Code(self._mark + secrets.token_hex(15), client_id, user, redirect_uri, challenge, expires_at)
        self._codes[code.value] = code
        return code.value

    def redeem_code(
        self, value: str, *, client_id: str, redirect_uri: str, verifier: str | None, switches: Switches
    ) -> Issue:
        """The tokens for a code, once. A second time ends what the first time gave (RFC 6749 §4.1.2).

        Raises:
            Refusal: invalid_grant; an unused code that was refused for another reason can still be redeemed.
        """
        code = self._codes.get(value)
        if code is None or code.client_id != client_id:
            raise Refusal("invalid_grant", "The code is not known.")
        if code.family is not None:
            code.family.ended = True
            raise Refusal("invalid_grant", "The code was used before; what it gave has been revoked.")
        if code.expires_at <= self._now():
            raise Refusal("invalid_grant", "The code has expired.")
        if code.redirect_uri != redirect_uri:
            raise Refusal("invalid_grant", "The redirect_uri is not the one of the authorization request.")
        if code.challenge != (None if verifier is None else _challenge_of(verifier)):
            raise Refusal("invalid_grant", "The code_verifier does not fit the code_challenge.")
        issue = self.issue_to_user(code.user, client_id=client_id, switches=switches)
        code.family = issue.access.family
        return issue

    def redeem_refresh_token(self, value: str, *, client_id: str, switches: Switches) -> Issue:
        """New tokens for a refresh token; whether it stays good afterwards is what `rotation` says.

        Raises:
            Refusal: invalid_grant; under strict rotation a spent token ends its whole family as well.
        """
        token = self._refresh_tokens.get(value)
        if token is None or token.family.client_id != client_id:
            raise Refusal("invalid_grant", "The refresh token is not known.")
        if token.spent and switches.rotation == "strict":
            token.family.ended = True
        if token.spent or token.family.ended or token.expires_at <= self._now():
            raise Refusal("invalid_grant", "The refresh token is spent, revoked or expired.")
        if switches.refresh_ends_access:
            token.family.end_access_tokens()
        return Issue(self._new_access_token(token.family, switches), self._successor(token, switches))

    def issue_to_user(self, user: str, *, client_id: str, switches: Switches) -> Issue:
        """A new family for *user*, as after a login; without a refresh token where answers leave it out."""
        family = self._new_family(client_id, user)
        access = self._new_access_token(family, switches)
        return Issue(access, None if "refresh_token" in switches.omit else self._new_refresh_token(family, switches))

    def issue_to_company(self, *, client_id: str, switches: Switches) -> Issue:
        """An access token that acts for the whole company; there is never a refresh token with it."""
        return Issue(self._new_access_token(self._new_family(client_id, COMPANY_USER), switches), None)

    def revoke(self, value: str, *, client_id: str) -> bool:
        """End a token as RFC 7009 says: a refresh token with its whole family, an access token alone.

        Returns whether the token is known here; the caller is told the same either way.

        Raises:
            Refusal: the token belongs to another client.
        """
        token = self._refresh_tokens.get(value) or self._access_tokens.get(value)
        if token is None:
            return False
        if token.family.client_id != client_id:
            raise Refusal("unauthorized_client", "The token was issued to another client.")
        if isinstance(token, RefreshToken):
            token.family.ended = True
        else:
            token.ended = True
        return True

    def revoke_user(self, user: str) -> int:
        """End all tokens of *user*, as if revoked in the provider's portal; how many families lived until now."""
        living = [family for family in self._families if family.user == user and not family.ended]
        for family in living:
            family.ended = True
        return len(living)

    def bearer(self, value: str) -> Family | None:
        """For whom an access token speaks, or None when it does not work (any more)."""
        token = self._access_tokens.get(value)
        if token is None or token.ended or token.family.ended or token.expires_at <= self._now():
            return None
        return token.family

    def user_of_code(self, value: str) -> str | None:
        """Whose code this is, used and expired ones included."""
        code = self._codes.get(value)
        return None if code is None else code.user

    def user_of_token(self, value: str) -> str | None:
        """Whose refresh or access token this is, dead ones included."""
        token = self._refresh_tokens.get(value) or self._access_tokens.get(value)
        return None if token is None else token.family.user

    def _successor(self, token: RefreshToken, switches: Switches) -> RefreshToken:
        # An answer that leaves the new token out would strand the client, so nothing is rotated then.
        if switches.rotation == "off" or "refresh_token" in switches.omit:
            return token
        token.spent = True
        return self._new_refresh_token(token.family, switches)

    def _new_family(self, client_id: str, user: str) -> Family:
        family = Family(client_id, user)
        self._families.append(family)
        return family

    def _new_access_token(self, family: Family, switches: Switches) -> AccessToken:
        lifetime = switches.token_lifetime_seconds
        token = AccessToken(self._mark + secrets.token_hex(16), family, lifetime, self._now() + lifetime)
        self._access_tokens[token.value] = token
        family.access_tokens.append(token)
        return token

    def _new_refresh_token(self, family: Family, switches: Switches) -> RefreshToken:
        expires_at = self._now() + switches.refresh_token_lifetime_seconds
        token = RefreshToken(self._mark + secrets.token_hex(20), family, expires_at)
        self._refresh_tokens[token.value] = token
        return token


def _challenge_of(verifier: str) -> str:
    """PKCE's S256: base64url of SHA-256, without padding (RFC 7636 §4.6)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
