"""Logs tell users apart without naming them."""

from service.core.model import COMPANY, SealingKey
from service.core.sealing.pseudonyms import nameless, naming

KEY = SealingKey("k1", b"k" * 32)
OTHER = SealingKey("k2", b"o" * 32)


def test_a_user_has_one_short_name_in_logs_wherever_the_key_is_the_same() -> None:
    name = naming("hash", KEY)("alice")
    assert name == naming("hash", SealingKey("another id", KEY.material))("alice") == "u-11d6b53f9c34"


def test_users_are_told_apart_and_nobody_without_the_key_can_name_them() -> None:
    users = ["alice", "Alice", "alice ", "älice", "\udc80", "x" * 255]
    names = [naming("hash", KEY)(user) for user in users]
    assert len(set(names)) == len(users)
    assert set(names).isdisjoint(naming("hash", OTHER)(user) for user in users)


def test_the_company_is_nobody() -> None:
    assert naming("hash", KEY)(COMPANY) == COMPANY
    assert naming("none", KEY)(COMPANY) is None


def test_a_setting_may_name_users_or_be_silent_about_them() -> None:
    assert naming("plain", KEY)("alice") == "alice"
    assert naming("plain", KEY)("x" * 70_000) == "x" * 255
    assert naming("plain", KEY)("Älice 漢") == "Älice 漢"
    assert naming("none", KEY)("alice") is nameless("alice") is None


def test_no_name_that_somebody_made_up_writes_lines_or_colours_of_its_own_into_a_log() -> None:
    made_up = "a\nlevel=error\x1b[2J\u2028\u202eb\udc80\x9b"
    assert naming("plain", KEY)(made_up) == "a\\nlevel=error\\x1b[2J\\u2028\\u202eb\\udc80\\x9b"
