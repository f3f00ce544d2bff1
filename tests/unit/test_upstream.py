"""Every answer of the provider is sorted once, whatever it is."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.core.model import TokenAnswer
from service.core.redeeming.upstream import (
    MAX_BODY_BYTES,
    Ambiguous,
    ClientRefused,
    InvalidGrant,
    OtherRefusal,
    Outcome,
    RateLimited,
    RefusedWithoutCode,
    read_answer,
)

SENT_AT = datetime(2016, 11, 11, 15, 5, 11, tzinfo=UTC)
DOCUMENTED = {
    "access_token": "7332170a208e270bc922d8ca54a5091f",
    "scope": "Office Manager",
    "token_type": "Bearer",
    "expires_in": 3599,
    "expires": "2016-11-11T16:05:10.301803",
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
token_fields = ("access_token", "refresh_token", "token_type", "scope", "expires_in", "expires", "error")
answers = st.dictionaries(st.sampled_from(token_fields), json_values).map(lambda fields: json.dumps(fields).encode())
good_answers = st.dictionaries(st.sampled_from(token_fields[3:]), json_values).map(
    lambda fields: json.dumps({"access_token": "a", "refresh_token": "r", **fields}).encode()
)
retry_afters = st.none() | st.text() | st.from_regex(r"\w{3}, \d{1,30} (Jan|Feb) \d{1,30} \d+:\d+:\d+ [+-]?\w{1,30}")


def body(**changes: Any) -> bytes:
    fields = {**DOCUMENTED, **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def read(status: int = 200, /, **changes: Any) -> TokenAnswer:
    return read_answer(status, body(**changes), SENT_AT)


def storable(text: str | None) -> bool:
    return text is None or (bool(text) and "\0" not in text and text.encode().decode() == text)


@given(st.integers(min_value=0, max_value=999) | st.just(200), st.binary() | answers | good_answers, retry_afters)
@example(200, b"[" * MAX_BODY_BYTES, None)
@example(200, b'{"access_token":' * 4000, None)
@example(200, b"\xff\xfe\x00", None)
@example(429, b"", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT")
@example(429, b"", "Mon, 01 Jan 2026 00:00:00 +99999999999999999999")
@example(429, b"", "9" * 5000)
@example(200, b'{"access_token":"a","scope":"\\ud800","refresh_token":"\\udfff"}', None)
@example(200, b'{"access_token":"a","scope":"\\u0000"}', None)
def test_any_answer_is_tokens_or_an_outcome(status: int, content: bytes, retry_after: str | None) -> None:
    try:
        answer = read_answer(status, content, SENT_AT, retry_after)
    except Outcome:
        return
    assert 200 <= status < 300
    assert answer.access_token.isascii()
    assert answer.expires_in is None or answer.expires_in > timedelta(0)
    assert storable(answer.refresh_token)
    assert storable(answer.scope)


def test_the_documented_answer_is_read_whole() -> None:
    answer = read(refresh_token="r")
    assert answer == TokenAnswer(
        access_token="7332170a208e270bc922d8ca54a5091f",
        refresh_token="r",
        scope="Office Manager",
        expires_in=timedelta(seconds=3599),
        sent_at=SENT_AT,
        clock_skew=timedelta(microseconds=301803),
    )


def test_an_answer_of_nothing_but_an_access_token_is_enough() -> None:
    answer = read_answer(200, b'{"access_token": "a"}', SENT_AT)
    assert answer == TokenAnswer("a", None, None, None, SENT_AT)


@pytest.mark.parametrize(
    "odd", [None, True, "", "soon", "NaN", "Infinity", 0, -1, [], {}, "1e999", int("9" * 400), ...], ids=str
)
def test_an_odd_expires_in_counts_as_missing_and_loses_no_refresh_token(odd: object) -> None:
    answer = read(expires_in=odd, refresh_token="r")
    assert answer.expires_in is None
    assert answer.refresh_token == "r"


def test_text_in_another_encoding_than_utf_8_loses_no_refresh_token() -> None:
    content = '{"access_token": "a", "refresh_token": "r", "scope": "B\xfcro"}'.encode("latin-1")
    answer = read_answer(200, content, SENT_AT)
    assert (answer.access_token, answer.refresh_token, answer.scope) == ("a", "r", "B\N{REPLACEMENT CHARACTER}ro")


@pytest.mark.parametrize(
    "tokens",
    [
        b'"access_token": "a\xfc"',
        b'"access_token": "a", "refresh_token": "r\xfc"',
        b'"access_token": "a", "refresh_token": "\\ud800"',
        b'"access_token": "a", "refresh_token": "r\\u0000"',
    ],
)
def test_a_token_that_is_not_read_as_it_was_written_makes_the_answer_unreadable(tokens: bytes) -> None:
    with pytest.raises(Ambiguous) as caught:
        read_answer(200, b"{" + tokens + b"}", SENT_AT)
    assert caught.value.unreadable


def test_an_expires_in_of_thousands_of_digits_loses_no_refresh_token() -> None:
    content = b'{"access_token": "a", "refresh_token": "r", "expires_in": ' + b"9" * 5000 + b"}"
    assert read_answer(200, content, SENT_AT).refresh_token == "r"


@pytest.mark.parametrize(("written", "seconds"), [(3599, 3599), ("3600", 3600), (3599.5, 3599.5), (" 60 ", 60)])
def test_an_expires_in_is_read_in_every_form_that_means_seconds(written: object, seconds: float) -> None:
    assert read(expires_in=written).expires_in == timedelta(seconds=seconds)


@pytest.mark.parametrize("empty", ["", None, 7, []])
def test_an_empty_refresh_token_or_scope_is_a_silence(empty: object) -> None:
    answer = read(refresh_token=empty, scope=empty)
    assert (answer.refresh_token, answer.scope) == (None, None)


@pytest.mark.parametrize("token_type", ["Bearer", "bearer", "BEARER", None, "", ...])
def test_bearer_in_any_case_and_a_missing_token_type_are_bearer(token_type: object) -> None:
    assert read(token_type=token_type).access_token == DOCUMENTED["access_token"]


UNREADABLE = {
    "empty": b"",
    "html": b"<html>Bad gateway</html>",
    "truncated": b'{"access_token": "a"',
    "list": b"[]",
    "text": b'"a"',
    "no token": b"{}",
    "empty token": body(access_token=""),
    "two words": body(access_token="two words"),
    "line break": body(access_token="line\nbreak"),
    "not ascii": body(access_token="ü"),
    "number": body(access_token=7),
    "mac": body(token_type="mac"),
    "list of types": body(token_type=["Bearer"]),
    "huge": body(padding="x" * MAX_BODY_BYTES),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_2xx_that_cannot_be_read_is_ambiguous(content: bytes) -> None:
    with pytest.raises(Ambiguous) as caught:
        read_answer(200, content, SENT_AT)
    assert caught.value.unreadable


@pytest.mark.parametrize("status", [0, 100, 199, 500, 502, 503, 599])
def test_any_5xx_is_ambiguous_even_with_an_error_code(status: int) -> None:
    with pytest.raises(Ambiguous) as caught:
        read_answer(status, b'{"error": "invalid_grant"}', SENT_AT)
    assert not caught.value.unreadable


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [
        (400, b'{"error": "invalid_grant"}', InvalidGrant),
        (401, b'{"error": "invalid_grant", "error_description": "invalid_client"}', InvalidGrant),
        (401, b'{"error": "invalid_client"}', ClientRefused),
        (400, b'{"error": "unauthorized_client"}', ClientRefused),
        (400, b'{"error": "invalid_scope"}', OtherRefusal),
        (400, b"invalid_grant", RefusedWithoutCode),
        (400, b'{"error": "invalid_grant ", "code": "invalid_grant"}', RefusedWithoutCode),
        (400, b'{"error": {"code": "invalid_grant"}}', RefusedWithoutCode),
        (403, b"", RefusedWithoutCode),
        (404, b"<html>invalid_grant</html>", RefusedWithoutCode),
        (429, b'{"error": "invalid_grant"}', RateLimited),
        (302, b'{"access_token": "a"}', OtherRefusal),
        (308, b"", OtherRefusal),
    ],
)
def test_codes_decide_never_text(status: int, content: bytes, kind: type[Outcome]) -> None:
    with pytest.raises(kind) as caught:
        read_answer(status, content, SENT_AT)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("120", 120),
        (" 0 ", 0),
        ("3600", 3600),
        ("86400", 3600),
        ("9" * 99, 3600),
        ("Sat, 12 Nov 2016 15:06:11 GMT", 3600),
        ("Fri, 11 Nov 2016 15:06:11 GMT", 60),
        ("Fri, 11 Nov 2016 15:00:00 GMT", 0),
        ("Fri, 11 Nov 2016 15:06:11 -0000", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503, 302, 400, 200])
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float | None, status: int) -> None:
    with pytest.raises(Outcome) as caught:
        read_answer(status, b"", SENT_AT, header)
    assert caught.value.retry_after == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("expires", "skew"),
    [
        ("2016-11-11T16:05:10", 0),
        ("2016-11-11T16:06:10+00:00", 60),
        ("2016-11-11T17:05:10+01:00", 0),
        ("tomorrow", None),
        (3599, None),
        (..., None),
    ],
)
def test_expires_without_a_zone_is_utc_and_tells_only_the_skew(expires: object, skew: float | None) -> None:
    answer = read(expires=expires)
    assert answer.clock_skew == (None if skew is None else timedelta(seconds=skew))
    assert answer.expires_in == timedelta(seconds=3599)


def test_no_outcome_repeats_what_the_provider_wrote() -> None:
    content = b'{"error": "made_up_secret", "error_description": "made_up_secret"}'
    with pytest.raises(OtherRefusal) as caught:
        read_answer(400, content, SENT_AT)
    assert "made_up_secret" not in str(caught.value)


def test_expires_without_a_zone_is_utc_wherever_this_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/Toronto")
    time.tzset()
    try:
        body = b'{"access_token": "a", "expires_in": 3600, "expires": "2026-01-01T13:00:00"}'
        answer = read_answer(200, body, datetime(2026, 1, 1, 12, tzinfo=UTC))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert answer.clock_skew == timedelta(0)
