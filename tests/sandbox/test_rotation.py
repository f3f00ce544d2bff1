"""What a refresh does to the tokens before it, in every position of the switches."""

import pytest

from tests.sandbox.visitor import Visitor, refused_with


async def test_rotation_off_returns_the_same_refresh_token_again_and_again(visitor: Visitor) -> None:
    await visitor.switch(rotation="off")
    token = (await visitor.connect())["refresh_token"]
    for _ in range(3):
        assert (await visitor.refresh(token)).json()["refresh_token"] == token


async def test_rotation_on_spends_the_old_refresh_token_and_spares_the_new(visitor: Visitor) -> None:
    first = await visitor.connect()
    second = (await visitor.refresh(first["refresh_token"])).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert refused_with(await visitor.refresh(first["refresh_token"]), "invalid_grant")
    assert await visitor.works(second["access_token"])
    assert (await visitor.refresh(second["refresh_token"])).status_code == 200


async def test_strict_rotation_ends_the_whole_family_when_a_spent_token_comes_back(visitor: Visitor) -> None:
    await visitor.switch(rotation="strict")
    first, another_login = await visitor.connect(), await visitor.connect()
    second = (await visitor.refresh(first["refresh_token"])).json()
    assert refused_with(await visitor.refresh(first["refresh_token"]), "invalid_grant")
    assert refused_with(await visitor.refresh(second["refresh_token"]), "invalid_grant")
    assert not await visitor.works(first["access_token"])
    assert not await visitor.works(second["access_token"])
    assert await visitor.works(another_login["access_token"])


@pytest.mark.parametrize("ends", [False, True])
async def test_a_refresh_ends_the_earlier_access_token_only_when_switched_so(visitor: Visitor, ends: bool) -> None:
    await visitor.switch(refresh_ends_access=ends)
    first = await visitor.connect()
    second = (await visitor.refresh(first["refresh_token"])).json()
    assert await visitor.works(first["access_token"]) is not ends
    assert await visitor.works(second["access_token"])


@pytest.mark.parametrize("part", ["refresh_token", "expires_in", "expires", "scope", "token_type"])
async def test_a_part_that_is_left_out_is_missing_and_the_others_are_not(visitor: Visitor, part: str) -> None:
    whole = await visitor.connect()
    await visitor.switch(omit=[part])
    assert whole.keys() - (await visitor.connect()).keys() == {part}


async def test_several_parts_can_be_left_out_at_once(visitor: Visitor) -> None:
    await visitor.switch(omit=["scope", "token_type", "expires"])
    assert (await visitor.company()).json().keys() == {"access_token", "expires_in"}


async def test_a_refresh_whose_answer_leaves_the_refresh_token_out_does_not_spend_the_old(visitor: Visitor) -> None:
    token = (await visitor.connect())["refresh_token"]
    await visitor.switch(rotation="strict", omit=["refresh_token"])
    for _ in range(2):
        answer = await visitor.refresh(token)
        assert answer.status_code == 200
        assert "refresh_token" not in answer.json()
