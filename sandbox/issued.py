"""What the provider has handed out. Nothing is forgotten: a token that comes back too late must be recognised."""

from dataclasses import dataclass, field


@dataclass(eq=False)
class Family:
    """All tokens that come from one login (or one client credentials request); ended, none of them works again."""

    client_id: str
    user: str
    ended: bool = False
    access_tokens: list["AccessToken"] = field(default_factory=list, repr=False)

    def end_access_tokens(self) -> None:
        """End every access token issued so far; refresh tokens live on."""
        for token in self.access_tokens:
            token.ended = True
        self.access_tokens.clear()


@dataclass(eq=False)
class AccessToken:
    """A bearer token for API calls."""

    value: str = field(repr=False)
    family: Family
    lifetime_seconds: float
    expires_at: float
    ended: bool = False


@dataclass(eq=False)
class RefreshToken:
    """A refresh token; spent means that a newer one of its family took its place."""

    value: str = field(repr=False)
    family: Family
    expires_at: float
    spent: bool = False


@dataclass(eq=False)
class Code:
    """An authorization code and the request it answers; `family` is what was issued for it, once it is used."""

    value: str = field(repr=False)
    client_id: str
    user: str
    redirect_uri: str
    challenge: str | None
    expires_at: float
    family: Family | None = None


@dataclass(frozen=True)
class Issue:
    """The tokens that answer one token request."""

    access: AccessToken
    refresh: RefreshToken | None
