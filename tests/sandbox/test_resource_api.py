"""The provider's API calls: they say whether a token works."""

import pytest

from tests.sandbox.visitor import Visitor

PATHS = ["/api/whoami/", "/api/call_queues/stats/live/", "/api/calls/"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_call_with_a_good_token_and_the_versioned_media_type_is_answered(visitor: Visitor, path: str) -> None:
    headers = {
        "Authorization": f"Bearer {(await visitor.connect())['access_token']}",
        "Accept": "application/vnd.integrate.v1.10.0+json",
    }
    answer = await visitor.http.get(path, headers=headers)
    assert answer.status_code == 200
    assert answer.json()
    assert (await visitor.last_call())["user"] == "alice"


@pytest.mark.parametrize("path", PATHS)
async def test_a_call_without_a_token_is_challenged_without_an_error(visitor: Visitor, path: str) -> None:
    answer = await visitor.http.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="versature"'


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", "Basic YTpi"])
async def test_a_call_with_a_bad_token_is_told_so(visitor: Visitor, header: str) -> None:
    answer = await visitor.http.get("/api/whoami/", headers={"Authorization": header})
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert (await visitor.last_call())["outcome"] == "invalid_token"


async def test_a_token_of_the_company_speaks_for_the_company(visitor: Visitor) -> None:
    token = (await visitor.company()).json()["access_token"]
    assert (await visitor.whoami(token)).json()["user"] == "@company"


async def test_a_refresh_token_is_not_an_access_token(visitor: Visitor) -> None:
    assert not await visitor.works((await visitor.connect())["refresh_token"])
