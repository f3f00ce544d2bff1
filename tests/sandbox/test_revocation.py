"""Ending tokens: RFC 7009, and the portal."""

import pytest

from tests.sandbox.visitor import COMPANY_SECRET, USER_SECRET, Visitor, refused_with


async def test_revoking_a_refresh_token_ends_its_access_tokens_too(visitor: Visitor) -> None:
    first = await visitor.connect()
    second = (await visitor.refresh(first["refresh_token"])).json()
    assert (await visitor.revoke(second["refresh_token"])).status_code == 200
    assert not await visitor.works(first["access_token"])
    assert not await visitor.works(second["access_token"])
    assert refused_with(await visitor.refresh(second["refresh_token"]), "invalid_grant")


async def test_revoking_an_access_token_ends_it_alone(visitor: Visitor) -> None:
    tokens = await visitor.connect()
    assert (await visitor.revoke(tokens["access_token"], token_type_hint="access_token")).status_code == 200
    assert not await visitor.works(tokens["access_token"])
    assert (await visitor.refresh(tokens["refresh_token"])).status_code == 200


async def test_an_unknown_token_is_answered_like_a_known_one_and_noted(visitor: Visitor) -> None:
    assert (await visitor.revoke("unknown")).status_code == 200
    assert (await visitor.last_call())["outcome"] == "unknown_token"


async def test_nobody_revokes_without_being_the_client_of_the_token(visitor: Visitor) -> None:
    tokens = await visitor.connect()
    assert refused_with(await visitor.revoke(tokens["refresh_token"], client_secret="x"), "invalid_client", 401)
    assert refused_with(await visitor.revoke(tokens["refresh_token"], **COMPANY_SECRET), "unauthorized_client")
    assert refused_with(await visitor.http.post("/api/oauth/revoke/", data=USER_SECRET), "invalid_request")
    assert await visitor.works(tokens["access_token"])


@pytest.mark.parametrize("user", ["alice", "@company"])
async def test_the_portal_ends_all_tokens_of_one_user_and_of_nobody_else(visitor: Visitor, user: str) -> None:
    access = {"@company": (await visitor.company()).json()["access_token"]}
    access |= {name: (await visitor.connect(name))["access_token"] for name in ("alice", "bob")}
    assert (await visitor.http.post("/sandbox/revoke_user", json={"user": user})).json() == {"ended": 1}
    assert {name for name, token in access.items() if not await visitor.works(token)} == {user}
