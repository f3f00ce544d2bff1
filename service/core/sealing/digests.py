"""One-way names for secrets and users, so that they can be recognised without being shown."""

import hashlib

from service.core.model import Application, GrantId


def secret_digest(secret: str) -> bytes:
    """SHA-256 of a secret with enough randomness of its own: API keys, tickets, states, cookies."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def grant_digest(grant: GrantId) -> str:
    """40 hex characters that name *grant* where its user's name must not show."""
    return _digest(grant.application, grant.user).hex()[:40]


def refresh_digest(grant: GrantId, refresh_token: str) -> str:
    """32 hex characters that tell whether *grant* has seen this refresh token before."""
    return _digest("refresh_token", grant.application, grant.user, refresh_token).hex()[:32]


def fingerprint(application: Application) -> bytes:
    """To whom a refresh token may be sent: it was issued by this token URL to this client id."""
    return _digest("fingerprint", application.token_url, application.client_id)


def _digest(*parts: str) -> bytes:
    sha = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        sha.update(len(encoded).to_bytes(4, "big") + encoded)
    return sha.digest()
