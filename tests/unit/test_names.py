"""Which names are well formed, and which patterns match them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import InvalidRequest
from service.core.names import check_name, check_pattern, check_user, matches

LETTERS = "ab.[?\\@\n"


def reference(pattern: str, name: str) -> bool:
    """What a pattern means, as slowly and plainly as it can be said."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(reference(pattern[1:], name[skipped:]) for skipped in range(len(name) + 1))
    return bool(name) and name[0] == pattern[0] and reference(pattern[1:], name[1:])


@given(st.text(LETTERS + "*", max_size=8), st.text(LETTERS, max_size=8))
def test_only_a_star_is_special_and_the_whole_name_must_match(pattern: str, name: str) -> None:
    reached = name == pattern if name.startswith("@") else reference(pattern, name)
    assert matches(pattern, name) == reached


@given(st.text("ab*", max_size=10), st.text("ab", max_size=10))
def test_stars_share_no_character_with_what_stands_around_them(pattern: str, name: str) -> None:
    assert matches(pattern, name) == reference(pattern, name)


def test_many_stars_take_no_longer_than_few() -> None:
    assert not matches("*a" * 127 + "b", "a" * 255)
    assert matches("*a" * 127 + "*", "a" * 255)


@pytest.mark.parametrize("pattern", ["*", "a*", "a@*", "@company", "é*b", "*" * 255, "x" * 255])
def test_a_pattern_is_any_name_with_stars(pattern: str) -> None:
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", ["", "x" * 256, "a/*", "*\n", "\0", "\x85", "\ud800", "@*", "@c*", "@x"])
def test_a_pattern_that_no_name_can_match_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("*", "alice", True),
        ("*", "@company", False),
        ("*company", "@company", False),
        ("@company", "@company", True),
        ("@*", "@company", False),
        ("@*", "alice", False),
        ("alice", "Alice", False),
        ("alice", "alice2", False),
        ("sales-*", "sales-7", True),
        ("sales-*", "presales-7", False),
        ("a.c", "abc", False),
        ("", "alice", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("ab*ba", "aba", False),
        ("*b*b", "ab", False),
        ("a*a*a", "aa", False),
        ("a*b*b", "abb", True),
        ("*ab*ab*", "abab", True),
        ("*ab*ab*", "aab", False),
        ("**", "", True),
    ],
)
def test_a_star_never_reaches_reserved_users(pattern: str, name: str, covered: bool) -> None:
    assert matches(pattern, name) is covered


@pytest.mark.parametrize(
    "user", ["a", "Ålice", "a b", "a" * 255, "ü" * 255, "alice@example.com", "@company", "%2F", "*"]
)
def test_a_user_is_any_opaque_text(user: str) -> None:
    assert check_user(user) == user


@pytest.mark.parametrize("user", ["", "a" * 256, "a/b", "a\nb", "\x7f", "\x85", "\ud800", "\0", "@", "@Company", "@x"])
def test_a_malformed_or_reserved_user_is_refused(user: str) -> None:
    with pytest.raises(InvalidRequest):
        check_user(user)


@pytest.mark.parametrize("name", ["a", "0", "sales-eu_2.1", "a" * 64])
def test_a_name_is_plain(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a" * 65, "a b", "ä", "a\n", "a/b", "@company"])
def test_a_name_that_is_not_plain_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_name(name)
