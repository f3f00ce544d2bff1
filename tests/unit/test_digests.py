"""One-way names for secrets."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from service.core.model import GrantId
from service.core.sealing.digests import fingerprint, refresh_digest, secret_digest
from tests.support.replicas import ALICE, VERSATURE

parts = st.tuples(st.text(), st.text(), st.text())


def digest_of(application: str, user: str, token: str) -> str:
    return refresh_digest(GrantId(application, user), token)


@given(parts, parts)
def test_a_refresh_token_is_recognised_only_in_its_own_grant(
    one: tuple[str, str, str], two: tuple[str, str, str]
) -> None:
    assert (digest_of(*one) == digest_of(*two)) is (one == two)


def test_moving_a_letter_between_the_parts_changes_the_digest() -> None:
    assert len({digest_of("ab", "c", "d"), digest_of("a", "bc", "d"), digest_of("a", "b", "cd")}) == 3


@given(st.text())
def test_any_text_can_be_digested_and_is_not_to_be_read_from_it(secret: str) -> None:
    assert len(secret_digest(secret)) == 32
    assert len(refresh_digest(ALICE, secret)) == 32
    assert secret_digest(secret + "x") != secret_digest(secret)


def test_a_fingerprint_follows_the_token_url_and_the_client_id_and_nothing_else() -> None:
    same = replace(VERSATURE, name="other", sealed_secret=b"new", authorize_url="https://x.example", vendor_id="7")
    assert fingerprint(same) == fingerprint(VERSATURE)
    assert fingerprint(replace(VERSATURE, client_id="other")) != fingerprint(VERSATURE)
    assert fingerprint(replace(VERSATURE, token_url="https://x.example")) != fingerprint(VERSATURE)
