"""A token on the wire, whichever way it goes out."""

import json

from service.api.schemas import rfc3339
from service.core.model import AccessToken


def token_body(token: AccessToken, expires_in: int) -> bytes:
    """The JSON of *token*, which lives *expires_in* whole seconds more."""
    content = {
        "access_token": token.value,
        "token_type": "Bearer",
        "scope": token.scope,
        "expires_in": expires_in,
        "expires_at": rfc3339(token.expires_at),
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def hit_status(expires_in: int, source: str) -> str:
    """`Cache-Status` (RFC 9211) of a token that was there already."""
    return f"token-broker; hit; ttl={expires_in}; detail={source}"
