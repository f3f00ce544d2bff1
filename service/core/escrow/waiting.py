"""The text of an answer that waits: what an escrow keeps, before it is sealed."""

import base64
import json
from datetime import datetime

from service.core.model import SealedTokens, WaitingAnswer
from service.core.records import EscrowEntry


def dump(answer: WaitingAnswer) -> str:
    """Everything about *answer* that its entry does not say in the clear."""
    tokens = answer.tokens
    instants = (answer.based_on, tokens.issued_at, tokens.access_expires_at, tokens.due_at, tokens.refresh_expires_at)
    return json.dumps(
        [
            _text(answer.ticket_digest),
            _text(tokens.access_sealed),
            _text(tokens.refresh_sealed),
            tokens.refresh_digest,
            tokens.scope,
            _text(tokens.fingerprint),
            *(instant.isoformat() if instant is not None else None for instant in instants),
        ]
    )


def load(text: str, entry: EscrowEntry) -> WaitingAnswer:
    """The answer that `dump` made *text* of."""
    ticket, access, refresh, digest, scope, fingerprint, *instants = json.loads(text)
    based_on, issued_at, access_expires_at, due_at, refresh_expires_at = (
        datetime.fromisoformat(instant) if instant is not None else None for instant in instants
    )
    tokens = SealedTokens(
        access_sealed=_bytes(access),
        refresh_sealed=_bytes(refresh),
        refresh_digest=digest,
        scope=scope,
        issued_at=issued_at or entry.kept_at,
        access_expires_at=access_expires_at,
        due_at=due_at,
        refresh_expires_at=refresh_expires_at,
        fingerprint=base64.b64decode(fingerprint),
    )
    return WaitingAnswer(
        entry.grant, entry.generation, entry.attempt_id, entry.kept_at, tokens, based_on, _bytes(ticket)
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value)
