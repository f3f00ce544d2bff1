"""One-way names for secrets and users."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from service.core.model import GrantId
from service.core.sealing.digests import fingerprint, grant_digest, refresh_digest, secret_digest
from tests.support.replicas import ALICE, VERSATURE

grants = st.builds(GrantId, st.text(), st.text())
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


@given(grants, grants)
def test_a_digest_names_one_grant_alone(one: GrantId, two: GrantId) -> None:
    assert (grant_digest(one) == grant_digest(two)) is (one == two)
    assert len(grant_digest(one)) == 40


def test_moving_a_letter_between_application_and_user_changes_the_digest() -> None:
    assert grant_digest(GrantId("ab", "c")) != grant_digest(GrantId("a", "bc"))


def test_digests_stay_what_they_are_across_versions() -> None:
    """They name files, keys and rows that an earlier version left behind."""
    eve = GrantId("default", "ève@example.com")
    assert grant_digest(GrantId("default", "alice")) == "efdbeb0f02bd2c2cd1ecf137c3891efb044afadf"
    assert grant_digest(eve) == "ceab1bdfe4e71e64928e8f46890006462ff1a578"
    assert refresh_digest(eve, "a refresh token") == "6cede66f517a72236b9a99289304836d"
    assert fingerprint(VERSATURE).hex() == "4059c4de294378201b5390d5990e440aa817172bd58e4fb27b8fe1f32a70debe"
    assert secret_digest("vtb_x").hex() == "9d6cd4ca3f572dff840a98021ed17cd9f19b7b4943e424d020f36d24eff53ad5"


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
