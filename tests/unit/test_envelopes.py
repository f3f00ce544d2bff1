"""How an escrow entry is written down."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.escrow.envelopes import from_bytes, oldest_first, to_bytes
from service.core.model import GrantId
from service.core.records import EscrowEntry

ENTRY = EscrowEntry(
    GrantId("default", "alice"), 3, "0f" * 16, datetime(2026, 11, 23, 12, 0, 0, 123_457, tzinfo=UTC), b"\x00sealed\xff"
)
WRITTEN = json.loads(to_bytes(ENTRY))

grants = st.builds(GrantId, st.text(), st.text())
entries = st.builds(
    EscrowEntry,
    grant=grants,
    generation=st.integers(0, 2**63 - 1),
    attempt_id=st.text(),
    kept_at=st.datetimes(timezones=st.just(UTC)),
    sealed=st.binary(),
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(entries)
def test_what_is_read_is_exactly_what_was_written(entry: EscrowEntry) -> None:
    read = from_bytes(to_bytes(entry))
    assert read == entry
    assert read.kept_at.utcoffset() == timedelta(0)


def test_an_instant_of_another_zone_is_the_same_instant() -> None:
    elsewhere = replace(ENTRY, kept_at=ENTRY.kept_at.astimezone(timezone(timedelta(hours=-5))))
    assert from_bytes(to_bytes(elsewhere)) == ENTRY


def test_an_envelope_written_by_an_earlier_version_can_be_read() -> None:
    """Written out, since whatever writes it today may be wrong together with what reads it."""
    data = (
        b'{"version": 1, "application": "default", "user": "\xc3\xa9ve", "generation": 7, "attempt_id": "ab12", '
        b'"kept_at_microseconds": 1700000000000001, "sealed": "AP8="}'
    )
    kept_at = datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC)
    assert from_bytes(data) == EscrowEntry(GrantId("default", "éve"), 7, "ab12", kept_at, b"\x00\xff")


@pytest.mark.parametrize(
    "odd",
    [
        replace(ENTRY, kept_at=ENTRY.kept_at.replace(tzinfo=None)),
        replace(ENTRY, generation=-1),
        replace(ENTRY, generation=2**63),
        replace(ENTRY, grant=GrantId("default", "half a surrogate: \ud83d")),
        replace(ENTRY, attempt_id="\udc00"),
    ],
    ids=["naive", "negative", "too large", "user", "attempt"],
)
def test_what_could_not_be_read_again_is_not_written(odd: EscrowEntry) -> None:
    with pytest.raises(ValueError, match=r"instant|generation|surrogates"):
        to_bytes(odd)


@given(st.binary())
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an escrow envelope"):
        from_bytes(data)


@given(values)
def test_json_that_is_no_envelope_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not an escrow envelope"):
        from_bytes(json.dumps(value).encode())


@given(st.sampled_from(sorted(WRITTEN)), values)
def test_an_envelope_with_one_wrong_type_is_refused(name: str, value: object) -> None:
    if type(value) is type(WRITTEN[name]):
        return
    with pytest.raises(ValueError, match="not an escrow envelope"):
        from_bytes(json.dumps(WRITTEN | {name: value}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"version": 1.0},
        {"generation": False},
        {"generation": -1},
        {"generation": 2**63},
        {"kept_at_microseconds": 10**30},
        {"kept_at_microseconds": -(10**17)},
        {"kept_at_microseconds": "2026-11-23T12:00:00"},
        {"sealed": "no base64!"},
        {"sealed": "AP8"},
        {"sealed": "é"},
        {"user": "\ud83d"},
        {"attempt_id": "\udc00"},
        {"more": 1},
    ],
    ids=str,
)
def test_an_envelope_with_an_odd_value_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not an escrow envelope"):
        from_bytes(json.dumps(WRITTEN | change).encode())


@pytest.mark.parametrize("missing", sorted(WRITTEN))
def test_an_envelope_without_one_of_its_parts_is_refused(missing: str) -> None:
    with pytest.raises(ValueError, match="not an escrow envelope"):
        from_bytes(json.dumps({name: value for name, value in WRITTEN.items() if name != missing}).encode())


@pytest.mark.parametrize("end", range(0, len(to_bytes(ENTRY)), 7))
def test_half_an_envelope_is_refused(end: int) -> None:
    with pytest.raises(ValueError, match="not an escrow envelope"):
        from_bytes(to_bytes(ENTRY)[:end])


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"generation": ' + b"9" * 5000 + b"}",
        to_bytes(ENTRY).decode().encode("utf-16"),
        b"\xef\xbb\xbf" + to_bytes(ENTRY),
        to_bytes(ENTRY) + b"{}",
    ],
    ids=["deep lists", "deep objects", "endless number", "utf-16", "byte order mark", "two"],
)
def test_hostile_text_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an escrow envelope"):
        from_bytes(data)


def test_a_refusal_carries_nothing_of_what_was_read() -> None:
    with pytest.raises(ValueError, match="not an escrow envelope") as refusal:
        from_bytes(b'{"sealed": "a secret')
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


def test_nothing_but_the_answer_is_hidden_and_the_answer_is_as_it_was_sealed() -> None:
    assert base64.b64decode(WRITTEN["sealed"]) == ENTRY.sealed
    assert (WRITTEN["application"], WRITTEN["user"], WRITTEN["generation"]) == ("default", "alice", 3)


@given(st.lists(entries))
def test_the_oldest_comes_first(kept: list[EscrowEntry]) -> None:
    ordered = oldest_first(kept)
    assert [entry.kept_at for entry in ordered] == sorted(entry.kept_at for entry in kept)
    assert len(ordered) == len(kept)
