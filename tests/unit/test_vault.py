"""Rule 10: every kind of secret has a place of its own, and what is moved to another one does not open."""

from dataclasses import replace

import pytest

from service.core.errors import KeyUnavailable
from service.core.model import GrantId
from service.core.ports import SealBroken
from service.core.records import CachedToken
from service.core.sealing.vault import Vault, application_place, grant_place, verifier_place
from tests.support.replicas import ALICE, BOB, VERSATURE, House, Replica

ELSEWHERE = GrantId("elsewhere", ALICE.user)


def test_no_two_secrets_share_a_place() -> None:
    places = [application_place(name) for name in ("versature", "elsewhere")]
    for grant in (ALICE, BOB, ELSEWHERE):
        places += [grant_place(grant, "access_token"), grant_place(grant, "refresh_token"), verifier_place(grant)]
    assert len(set(places)) == len(places)


async def test_the_secret_of_one_application_is_not_opened_for_another(replica: Replica) -> None:
    with pytest.raises(KeyUnavailable):
        replica.vault.open_client_secret(replace(VERSATURE, name="elsewhere"))


async def test_a_cached_token_opens_for_its_own_grant_and_generation_only(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await replica.ask()
    cached = await house.shared.get(ALICE)
    assert cached is not None
    assert replica.vault.open_cached(ALICE, cached) is not None
    for grant in (BOB, ELSEWHERE):
        assert replica.vault.open_cached(grant, cached) is None
    assert replica.vault.open_cached(ALICE, CachedToken(cached.generation + 1, cached.sealed)) is None


async def test_an_answer_that_waits_opens_for_its_own_grant_generation_and_attempt_only(house: House) -> None:
    vault = Vault(house.keyring, house.policy, lambda: 0.0)
    entry = vault.seal_waiting(house.answer())
    moves = ({"grant": BOB}, {"grant": ELSEWHERE}, {"generation": 2}, {"attempt_id": "another"})
    for moved in (replace(entry, **move) for move in moves):
        with pytest.raises(SealBroken):
            vault.open_waiting(moved)
