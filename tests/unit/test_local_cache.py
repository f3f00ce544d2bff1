"""Access tokens in this process's memory."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from service.core.local_cache import LocalCache
from service.core.model import AccessToken, GrantId, GrantState
from service.core.records import Standing

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def token(generation: int, value: str = "a") -> AccessToken:
    return AccessToken(value, None, NOON, NOON + timedelta(hours=1), NOON + timedelta(minutes=48), generation)


def grant(user: object) -> GrantId:
    return GrantId("versature", str(user))


def seen(cache: LocalCache, user: object) -> tuple[AccessToken, datetime] | None:
    entry = cache.get(grant(user))
    return None if entry is None else (entry.token, entry.confirmed_at)


def test_what_was_put_is_found_with_its_confirmation_until_it_is_dropped() -> None:
    cache = LocalCache(timedelta(seconds=5))
    assert cache.get(grant(1)) is None
    cache.put(grant(1), token(1), NOON)
    assert seen(cache, 1) == (token(1), NOON)
    cache.drop(grant(1))
    cache.drop(grant(1))
    assert cache.get(grant(1)) is None


def test_an_older_generation_never_replaces_a_newer_one() -> None:
    cache = LocalCache(timedelta(seconds=5))
    cache.put(grant(1), token(2), NOON)
    cache.put(grant(1), token(1), NOON + timedelta(seconds=1))
    assert seen(cache, 1) == (token(2), NOON)
    cache.put(grant(1), token(2), NOON + timedelta(seconds=2))
    assert seen(cache, 1) == (token(2), NOON + timedelta(seconds=2))


def test_the_one_used_longest_ago_makes_room() -> None:
    cache = LocalCache(timedelta(seconds=5), max_entries=2)
    for user in (1, 2):
        cache.put(grant(user), token(1), NOON)
    cache.get(grant(1))
    cache.put(grant(3), token(1), NOON)
    assert len(cache) == 2
    assert cache.get(grant(2)) is None
    assert cache.get(grant(1)) is not None


def test_large_tokens_make_room_too_however_few_they_are() -> None:
    cache, large = LocalCache(timedelta(seconds=5), max_bytes=1_000_000), "x" * 100_000
    for user in range(4):
        cache.put(grant(user), token(1, large), NOON)
    held = cache.peek(grant(1))
    cache.get(grant(0))
    cache.put(grant(4), token(1, large), NOON)
    assert [user for user in range(5) if cache.peek(grant(user))] == [0, 2, 3, 4]
    assert held is not None
    assert held.serve_until < 0
    cache.put(grant(5), token(1, "x" * 1_000_000), NOON)
    assert len(cache) == 0


def test_what_was_buried_comes_back_only_with_a_newer_generation() -> None:
    """A renewal's answer may still be on its way here when its grant is revoked."""
    cache = LocalCache(timedelta(seconds=5))
    cache.put(grant(1), token(2), NOON)
    cache.bury(grant(1), 3, NOON)
    assert cache.get(grant(1)) is None
    for late in (1, 2, 3):
        cache.put(grant(1), token(late), NOON)
        assert cache.get(grant(1)) is None
    cache.put(grant(1), token(4), NOON)
    assert seen(cache, 1) == (token(4), NOON)
    cache.put(grant(2), token(1), NOON)
    assert cache.get(grant(2)) is not None


def test_what_was_buried_stays_so_after_something_newer_came_and_went() -> None:
    cache = LocalCache(timedelta(seconds=5))
    cache.bury(grant(1), 3, NOON)
    cache.put(grant(1), token(4), NOON)
    cache.bury(grant(1), 2, NOON)
    cache.put(grant(1), token(3), NOON)
    assert cache.get(grant(1)) is None
    assert [cache.has_buried(grant(1), generation) for generation in (3, 4)] == [True, False]


def test_what_the_database_confirms_after_a_burial_is_believed_for_it_went_back_in_time() -> None:
    cache, later = LocalCache(timedelta(seconds=5)), NOON + timedelta(seconds=1)
    cache.bury(grant(1), 3, NOON)
    cache.put(grant(1), token(2), later)
    assert seen(cache, 1) == (token(2), later)
    assert not cache.has_buried(grant(1), 2)


def test_nothing_is_worth_a_confirmation_where_nothing_is_served_without_one() -> None:
    for age, worth in ((5, [grant(1)]), (0, [])):
        cache = LocalCache(timedelta(seconds=age))
        cache.put(grant(1), token(1), NOON)
        cache.get(grant(1))
        assert cache.in_use() == worth


def test_a_cache_is_ahead_of_what_was_buried_or_is_older_than_its_entry() -> None:
    cache = LocalCache(timedelta(seconds=5))
    cache.bury(grant(1), 3, NOON)
    cache.put(grant(2), token(3), NOON)
    assert [cache.is_ahead_of(grant(1), generation) for generation in (3, 4)] == [True, False]
    assert [cache.is_ahead_of(grant(2), generation) for generation in (2, 3)] == [True, False]


def test_dropping_is_not_burying() -> None:
    cache = LocalCache(timedelta(seconds=5))
    cache.put(grant(1), token(2), NOON)
    cache.drop(grant(1))
    cache.put(grant(1), token(1), NOON)
    assert seen(cache, 1) == (token(1), NOON)


def test_graves_are_bounded_too_and_the_oldest_goes_first() -> None:
    cache = LocalCache(timedelta(seconds=5), max_entries=2)
    for user in (1, 2, 3):
        cache.bury(grant(user), 5, NOON)
    for user in (1, 2, 3):
        cache.put(grant(user), token(5), NOON)
    assert [cache.get(grant(user)) is not None for user in (1, 2, 3)] == [True, False, False]


def served_until(cache: LocalCache, user: object = 1) -> datetime | None:
    entry = cache.peek(grant(user))
    return None if entry is None or entry.serve_until < 0 else datetime.fromtimestamp(entry.serve_until, UTC)


def test_an_entry_is_served_without_a_thought_until_its_confirmation_is_old_or_it_is_due() -> None:
    cache = LocalCache(timedelta(seconds=5))
    cache.put(grant(1), token(1), NOON)
    assert served_until(cache) == NOON + timedelta(seconds=5)
    confirmed_at = NOON + timedelta(minutes=47, seconds=58)
    cache.confirm(grant(1), Standing(1, NOON, GrantState.CONNECTED, claimed=False, has_token=True), confirmed_at)
    assert served_until(cache) == NOON + timedelta(minutes=48)


def test_during_a_flight_nobody_is_served_without_a_thought_whatever_is_confirmed_or_saved() -> None:
    cache = LocalCache(timedelta(seconds=5))
    cache.put(grant(1), token(1), NOON)
    cache.ground(grant(1))
    cache.confirm(grant(1), Standing(1, NOON, GrantState.CONNECTED, claimed=False, has_token=True), NOON)
    assert served_until(cache) is None
    cache.put(grant(1), token(2, "b"), NOON)
    assert served_until(cache) is None
    cache.release(grant(1))
    assert served_until(cache) == NOON + timedelta(seconds=5)


def test_whoever_holds_on_to_an_entry_sees_that_it_is_gone() -> None:
    cache = LocalCache(timedelta(seconds=5), max_entries=1)
    ends: tuple[Callable[[], None], ...] = (
        lambda: cache.drop(grant(1)),
        lambda: cache.bury(grant(1), 0, NOON),
        lambda: cache.put(grant(1), token(2), NOON),
        lambda: cache.put(grant(2), token(1), NOON),
    )
    for end in ends:
        cache.drop(grant(1))
        cache.put(grant(1), token(1), NOON)
        held = cache.peek(grant(1))
        assert held is not None
        assert held.serve_until > 0
        end()
        assert held.serve_until < 0
