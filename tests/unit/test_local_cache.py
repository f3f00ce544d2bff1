"""Access tokens in this process's memory."""

from datetime import UTC, datetime, timedelta

from service.core.local_cache import Entry, LocalCache
from service.core.model import AccessToken, GrantId

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def token(generation: int, value: str = "a") -> AccessToken:
    return AccessToken(value, None, NOON, NOON + timedelta(hours=1), NOON + timedelta(minutes=48), generation)


def grant(user: object) -> GrantId:
    return GrantId("versature", str(user))


def test_what_was_put_is_found_with_its_confirmation_until_it_is_dropped() -> None:
    cache = LocalCache()
    assert cache.get(grant(1)) is None
    cache.put(grant(1), token(1), NOON)
    assert cache.get(grant(1)) == Entry(token(1), NOON)
    cache.drop(grant(1))
    cache.drop(grant(1))
    assert cache.get(grant(1)) is None


def test_an_older_generation_never_replaces_a_newer_one() -> None:
    cache = LocalCache()
    cache.put(grant(1), token(2), NOON)
    cache.put(grant(1), token(1), NOON + timedelta(seconds=1))
    assert cache.get(grant(1)) == Entry(token(2), NOON)
    cache.put(grant(1), token(2), NOON + timedelta(seconds=2))
    assert cache.get(grant(1)) == Entry(token(2), NOON + timedelta(seconds=2))


def test_the_one_used_longest_ago_makes_room() -> None:
    cache = LocalCache(max_entries=2)
    for user in (1, 2):
        cache.put(grant(user), token(1), NOON)
    cache.get(grant(1))
    cache.put(grant(3), token(1), NOON)
    assert len(cache) == 2
    assert cache.get(grant(2)) is None
    assert cache.get(grant(1)) is not None


def test_what_was_buried_comes_back_only_with_a_newer_generation() -> None:
    """A renewal's answer may still be on its way here when its grant is revoked."""
    cache = LocalCache()
    cache.put(grant(1), token(2), NOON)
    cache.bury(grant(1), 3)
    assert cache.get(grant(1)) is None
    for late in (1, 2, 3):
        cache.put(grant(1), token(late), NOON)
        assert cache.get(grant(1)) is None
    cache.put(grant(1), token(4), NOON)
    assert cache.get(grant(1)) == Entry(token(4), NOON)
    cache.put(grant(2), token(1), NOON)
    assert cache.get(grant(2)) is not None


def test_dropping_is_not_burying() -> None:
    cache = LocalCache()
    cache.put(grant(1), token(2), NOON)
    cache.drop(grant(1))
    cache.put(grant(1), token(1), NOON)
    assert cache.get(grant(1)) == Entry(token(1), NOON)


def test_graves_are_bounded_too_and_the_oldest_goes_first() -> None:
    cache = LocalCache(max_entries=2)
    for user in (1, 2, 3):
        cache.bury(grant(user), 5)
    for user in (1, 2, 3):
        cache.put(grant(user), token(5), NOON)
    assert [cache.get(grant(user)) is not None for user in (1, 2, 3)] == [True, False, False]
