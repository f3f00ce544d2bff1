"""What can come of one request to the provider's token endpoint, sorted once and by code, never by text.

Outcome
├── NotSent                 no byte left us: try again
├── Ambiguous               sent, and no readable answer: the refresh token may be spent
└── Refused                 answered: nothing was spent
    ├── InvalidGrant        the code or refresh token is not (or no longer) good
    ├── ClientRefused       our registration is refused
    ├── RateLimited
    ├── RefusedWithoutCode  4xx that names no error code
    └── OtherRefusal        redirects and every other code
"""

import json
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import ClassVar

from service.core.model import TokenAnswer

MAX_BODY_BYTES = 64 * 1024
RETRY_AFTER_MAX = timedelta(hours=1)
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NOT_UTF8 = "\N{REPLACEMENT CHARACTER}"
_CLIENT_CODES = frozenset({"invalid_client", "unauthorized_client"})


class Outcome(Exception):
    """A token request that brought no token; `label` is its name in metrics and logs."""

    label: ClassVar[str]

    def __init__(self, detail: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class NotSent(Outcome):
    label = "not_sent"


class Ambiguous(Outcome):
    """`unreadable` when something came back that no client could read."""

    label = "ambiguous"

    def __init__(self, detail: str, *, unreadable: bool = False, retry_after: timedelta | None = None) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.unreadable = unreadable


class Refused(Outcome):
    label = "refused"


class InvalidGrant(Refused):
    label = "invalid_grant"


class ClientRefused(Refused):
    label = "client_refused"


class RateLimited(Refused):
    label = "rate_limited"


class RefusedWithoutCode(Refused):
    label = "refused_without_code"


class OtherRefusal(Refused):
    label = "other_refusal"


def read_answer(status: int, body: bytes, sent_at: datetime, retry_after: str | None = None) -> TokenAnswer:
    """Sort a complete answer: a `TokenAnswer`, or the `Outcome` that it amounts to.

    *body* may be cut at `MAX_BODY_BYTES` + 1. *retry_after* is the header's text. Silences of the provider are
    filled in only by those who know the old grant; here they stay None. An odd `expires_in` counts as missing, since
    the refresh token beside it must not be lost for it.
    """
    try:
        return _sort(status, body, sent_at)
    except Outcome as outcome:
        outcome.retry_after = _read_retry_after(retry_after, sent_at)
        raise


def _sort(status: int, body: bytes, sent_at: datetime) -> TokenAnswer:
    if 200 <= status < 300:
        return _read_tokens(body, sent_at)
    if status >= 500 or status < 300:
        raise Ambiguous(f"The provider answered with status {status}.")
    if status == 429:
        raise RateLimited("The provider limits our requests.")
    if status < 400:
        raise OtherRefusal(f"The provider answered with a redirect ({status}), which is never followed.")
    code = _read_error_code(body)
    if code is None:
        raise RefusedWithoutCode(f"The provider refused with status {status} and no error code.")
    if code == "invalid_grant":
        raise InvalidGrant("The provider says invalid_grant.")
    if code in _CLIENT_CODES:
        raise ClientRefused(f"The provider says {code}: the application's registration or secret is refused.")
    raise OtherRefusal(f"The provider refused with status {status} and an error code that no retry can mend.")


def _read_tokens(body: bytes, sent_at: datetime) -> TokenAnswer:
    fields = _read_object(body)
    if fields is None:
        raise Ambiguous("The provider's answer cannot be read.", unreadable=True)
    access_token, token_type = fields.get("access_token"), fields.get("token_type")
    if not isinstance(access_token, str) or not _VISIBLE.fullmatch(access_token):
        raise Ambiguous("The provider's answer holds no usable access token.", unreadable=True)
    if token_type and (not isinstance(token_type, str) or token_type.lower() != "bearer"):
        raise Ambiguous("The provider's answer is of a token type other than Bearer.", unreadable=True)
    expires_in = _read_seconds(fields.get("expires_in"))
    return TokenAnswer(
        access_token=access_token,
        refresh_token=_read_refresh_token(fields.get("refresh_token")),
        scope=_read_text(fields.get("scope")),
        expires_in=expires_in,
        sent_at=sent_at,
        clock_skew=_read_skew(fields.get("expires"), expires_in, sent_at),
    )


def _read_object(body: bytes) -> dict[str, object] | None:
    if len(body) > MAX_BODY_BYTES:
        return None
    try:
        # Neither an integer of too many digits nor text that is not UTF-8 shall spoil the whole answer.
        fields = json.loads(body.decode(json.detect_encoding(body), "replace"), parse_int=float)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _read_error_code(body: bytes) -> str | None:
    error = (_read_object(body) or {}).get("error")
    return error if isinstance(error, str) and _CODE.fullmatch(error) else None


def _read_text(value: object) -> str | None:
    """*value*, if it is text that every store and every request can carry."""
    if not isinstance(value, str) or "\0" in value:
        return None
    return value if value and value.encode("utf-8", "ignore").decode() == value else None


def _read_refresh_token(value: object) -> str | None:
    text = _read_text(value)
    if isinstance(value, str) and value and (text is None or _NOT_UTF8 in text):
        raise Ambiguous("The provider's answer holds a refresh token that cannot be read.", unreadable=True)
    return text


def _read_seconds(value: object) -> timedelta | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        duration = timedelta(seconds=float(value))
    except (ValueError, OverflowError):
        return None
    return duration if duration > timedelta(0) else None


def _read_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Seconds or an HTTP date (RFC 9110 section 10.2.3), as a duration from *now*; None when it says neither.

    Nobody is left alone for longer than `RETRY_AFTER_MAX`.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(timedelta(seconds=int(value.strip()[:9])), RETRY_AFTER_MAX)
    try:
        return min(max(parsedate_to_datetime(value) - now, timedelta(0)), RETRY_AFTER_MAX)
    except (ValueError, TypeError, OverflowError):
        return None


def _read_skew(expires: object, expires_in: timedelta | None, sent_at: datetime) -> timedelta | None:
    """How far the provider's clock is ahead of ours, where its answer tells: `expires` without a zone is UTC."""
    if not isinstance(expires, str) or expires_in is None:
        return None
    try:
        instant = datetime.fromisoformat(expires)
        instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
        return instant - (sent_at + expires_in)
    except (ValueError, OverflowError):
        return None
