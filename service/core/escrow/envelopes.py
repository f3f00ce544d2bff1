"""How an escrow entry is written down: one JSON text, the same in every escrow, of which only the answer is sealed."""

import base64
import binascii
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from service.core.model import GrantId
from service.core.records import EscrowEntry

_VERSION = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_GENERATIONS = range(2**63)
_FORM = {
    "version": int,
    "application": str,
    "user": str,
    "generation": int,
    "attempt_id": str,
    "kept_at_microseconds": int,
    "sealed": str,
}


def oldest_first(entries: Iterable[EscrowEntry]) -> list[EscrowEntry]:
    """*entries* in the order in which they were kept."""
    return sorted(entries, key=lambda entry: entry.kept_at)


def to_bytes(entry: EscrowEntry) -> bytes:
    """The envelope that `from_bytes` makes exactly this *entry* of again.

    Raises:
        ValueError: there is none: the instant is naive, a name is no valid UTF-8, the generation is out of range.
    """
    if entry.kept_at.utcoffset() is None:
        raise ValueError("an instant without zone")
    if entry.generation not in _GENERATIONS:
        raise ValueError("a generation out of range")
    envelope = {
        "version": _VERSION,
        "application": entry.grant.application,
        "user": entry.grant.user,
        "generation": entry.generation,
        "attempt_id": entry.attempt_id,
        "kept_at_microseconds": (entry.kept_at - _EPOCH) // _MICROSECOND,
        "sealed": base64.b64encode(entry.sealed).decode(),
    }
    return json.dumps(envelope, ensure_ascii=False).encode()


def from_bytes(data: bytes) -> EscrowEntry:
    """The entry that was written down as *data*.

    Raises:
        ValueError: *data* is anything but what `to_bytes` writes. Nothing of it is in the error.
    """
    try:
        return _entry(json.loads(data.decode()))
    except (ValueError, OverflowError, RecursionError):
        raise ValueError("not an escrow envelope") from None


def _entry(envelope: object) -> EscrowEntry:
    if not isinstance(envelope, dict) or {key: type(value) for key, value in envelope.items()} != _FORM:
        raise ValueError
    if envelope["version"] != _VERSION or envelope["generation"] not in _GENERATIONS:
        raise ValueError
    for name in ("application", "user", "attempt_id"):
        envelope[name].encode()  # JSON can escape half a surrogate, which is no text
    return EscrowEntry(
        grant=GrantId(envelope["application"], envelope["user"]),
        generation=envelope["generation"],
        attempt_id=envelope["attempt_id"],
        kept_at=_EPOCH + timedelta(microseconds=envelope["kept_at_microseconds"]),
        sealed=_decoded(envelope["sealed"]),
    )


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError from None
