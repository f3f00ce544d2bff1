"""The token endpoint when nothing is wrong with it."""

import httpx
import pytest

from sandbox.directory import COMPANY_CLIENT, DEFAULT_REDIRECT_URI, USER_CLIENT
from tests.sandbox.visitor import COMPANY_SECRET, USER_SECRET, Clock, Visitor, refused_with

VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"  # the example of RFC 7636, appendix B
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


async def test_the_company_gets_versatures_exact_answer_and_no_refresh_token(visitor: Visitor) -> None:
    answer = await visitor.company()
    fields = answer.json()
    assert len(fields.pop("access_token")) == 32
    assert fields == {
        "scope": "Office Manager",
        "token_type": "Bearer",
        "expires_in": 3600,
        "expires": "1970-01-12T14:46:40.250000",
    }
    assert answer.headers["cache-control"] == "no-store"


async def test_a_login_gives_a_refresh_token_and_tokens_that_work_for_that_user(visitor: Visitor) -> None:
    tokens = await visitor.connect("bob")
    assert len(tokens["refresh_token"]) == 40
    whoami = (await visitor.whoami(tokens["access_token"])).json()
    assert whoami == {"user": "bob", "client_id": USER_CLIENT.id, "scope": "Office Manager"}


async def test_a_form_is_read_as_a_form_though_the_sdk_calls_it_json(visitor: Visitor) -> None:
    answer = await visitor.http.post(
        "/api/oauth/token/",
        content=f"grant_type=client_credentials&client_id={COMPANY_CLIENT.id}&client_secret={COMPANY_CLIENT.secret}",
        headers={"Content-Type": "Application/json; charset=utf-8"},
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/api/oauth/token", "/api/oauth/revoke", "/api/oauth/authorize", "/api/whoami"])
async def test_without_its_trailing_slash_a_path_is_not_found(visitor: Visitor, path: str) -> None:
    assert (await visitor.http.post(path)).status_code == 404


async def test_an_access_token_lives_as_long_as_the_switch_says(visitor: Visitor, clock: Clock) -> None:
    await visitor.switch(token_lifetime_seconds=5.5)
    answer = (await visitor.company()).json()
    assert answer["expires_in"] == 5
    clock.now += 5.25
    assert await visitor.works(answer["access_token"])
    clock.now += 0.25
    assert not await visitor.works(answer["access_token"])


async def test_a_code_dies_after_its_sixty_seconds(visitor: Visitor, clock: Clock) -> None:
    early, late = await visitor.code(), await visitor.code()
    clock.now += 59
    assert (await visitor.redeem(early)).status_code == 200
    clock.now += 1
    assert refused_with(await visitor.redeem(late), "invalid_grant")


async def test_the_life_of_a_code_can_be_switched(visitor: Visitor, clock: Clock) -> None:
    await visitor.switch(code_lifetime_seconds=2)
    code = await visitor.code()
    clock.now += 2
    assert refused_with(await visitor.redeem(code), "invalid_grant")


async def test_a_code_used_twice_ends_what_it_gave(visitor: Visitor) -> None:
    code = await visitor.code()
    tokens = (await visitor.redeem(code)).json()
    assert refused_with(await visitor.redeem(code), "invalid_grant")
    assert not await visitor.works(tokens["access_token"])
    assert refused_with(await visitor.refresh(tokens["refresh_token"]), "invalid_grant")


async def test_a_code_needs_the_redirect_uri_it_was_asked_with(visitor: Visitor) -> None:
    code = await visitor.code()
    assert refused_with(await visitor.redeem(code, redirect_uri=DEFAULT_REDIRECT_URI + "/"), "invalid_grant")
    assert refused_with(await visitor.token("authorization_code", code=code), "invalid_request")
    assert (await visitor.redeem(code)).status_code == 200


async def test_pkce_is_verified_where_a_challenge_was_given(visitor: Visitor) -> None:
    code = await visitor.code(code_challenge=CHALLENGE, code_challenge_method="S256")
    assert refused_with(await visitor.redeem(code), "invalid_grant")
    assert refused_with(await visitor.redeem(code, code_verifier="x" * 43), "invalid_grant")
    assert (await visitor.redeem(code, code_verifier=VERIFIER)).status_code == 200
    assert [call["pkce"] for call in await visitor.calls(endpoint="token")] == [False, True, True]


async def test_a_verifier_without_a_challenge_is_refused(visitor: Visitor) -> None:
    assert refused_with(await visitor.redeem(await visitor.code(), code_verifier=VERIFIER), "invalid_grant")


async def test_a_refresh_token_lives_ninety_days(visitor: Visitor, clock: Clock) -> None:
    tokens = await visitor.connect()
    clock.now += 90 * 86400
    assert refused_with(await visitor.refresh(tokens["refresh_token"]), "invalid_grant")


async def test_the_life_of_a_refresh_token_can_be_switched_and_begins_anew_with_rotation(
    visitor: Visitor, clock: Clock
) -> None:
    await visitor.switch(refresh_token_lifetime_seconds=100)
    token = (await visitor.connect())["refresh_token"]
    clock.now += 99
    token = (await visitor.refresh(token)).json()["refresh_token"]
    clock.now += 99
    token = (await visitor.refresh(token)).json()["refresh_token"]
    clock.now += 100
    assert refused_with(await visitor.refresh(token), "invalid_grant")


@pytest.mark.parametrize(
    ("form", "code", "status"),
    [
        ({}, "invalid_request", 400),
        ({"grant_type": "client_credentials"}, "invalid_client", 401),
        ({"grant_type": "client_credentials", "client_id": COMPANY_CLIENT.id}, "invalid_client", 401),
        ({"grant_type": "client_credentials", **COMPANY_SECRET, "client_secret": "wrong"}, "invalid_client", 401),
        ({"grant_type": "client_credentials", **COMPANY_SECRET, "client_id": "wrong"}, "invalid_client", 401),
        ({"grant_type": "client_credentials", **USER_SECRET}, "unauthorized_client", 400),
        ({"grant_type": "refresh_token", **COMPANY_SECRET, "refresh_token": "x"}, "unauthorized_client", 400),
        ({"grant_type": "password", **USER_SECRET}, "unsupported_grant_type", 400),
        ({"grant_type": "refresh_token", **USER_SECRET}, "invalid_request", 400),
        ({"grant_type": "refresh_token", **USER_SECRET, "refresh_token": ""}, "invalid_request", 400),
        ({"grant_type": "refresh_token", **USER_SECRET, "refresh_token": "x"}, "invalid_grant", 400),
        ({"grant_type": "authorization_code", **USER_SECRET, "code": "x", "redirect_uri": "y"}, "invalid_grant", 400),
        ({"grant_type": ["client_credentials", "client_credentials"], **COMPANY_SECRET}, "invalid_request", 400),
    ],
)
async def test_each_wrong_request_has_its_own_code(
    visitor: Visitor, form: dict[str, str | list[str]], code: str, status: int
) -> None:
    assert refused_with(await visitor.http.post("/api/oauth/token/", data=form), code, status)
    assert (await visitor.last_call())["outcome"] == code


async def test_a_body_that_is_not_utf_8_is_an_invalid_request(visitor: Visitor) -> None:
    for content in (b"\xff", b"grant_type=%ff"):
        assert refused_with(await visitor.http.post("/api/oauth/token/", content=content), "invalid_request")


async def test_http_basic_is_not_known_here(visitor: Visitor) -> None:
    basic = httpx.BasicAuth(COMPANY_CLIENT.id, COMPANY_CLIENT.secret)
    form = {"grant_type": "client_credentials"}
    assert refused_with(await visitor.http.post("/api/oauth/token/", data=form, auth=basic), "invalid_client", 401)


async def test_a_vendor_id_is_accepted_and_noted(visitor: Visitor) -> None:
    assert (await visitor.token("client_credentials", vendor_id="reseller")).status_code == 200
    assert (await visitor.last_call())["vendor_id_present"] is True


async def test_a_refresh_without_secret_is_only_accepted_when_switched_so(visitor: Visitor) -> None:
    form = {
        "grant_type": "refresh_token",
        "client_id": USER_CLIENT.id,
        "refresh_token": (await visitor.connect())["refresh_token"],
    }
    assert refused_with(await visitor.http.post("/api/oauth/token/", data=form), "invalid_client", 401)
    await visitor.switch(refresh_needs_secret=False)
    wrong = {**form, "client_secret": "wrong"}
    assert refused_with(await visitor.http.post("/api/oauth/token/", data=wrong), "invalid_client", 401)
    assert (await visitor.http.post("/api/oauth/token/", data=form)).status_code == 200
