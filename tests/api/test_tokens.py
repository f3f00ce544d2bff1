"""`GET /tokens/{user}` and `POST /tokens/{user}/rejected`, to the letter of the answer."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from service.adapters.sql_directory import SqlDirectoryStore
from service.adapters.versature import VersatureServer
from service.core.model import GrantId, Scope, TokenAnswer
from tests.api.front import Front, code_of, front_in

LIFE = 3600
DUE = 0.8 * LIFE


def cache_status(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    status: str = answer.headers["Cache-Status"]
    return status


async def test_an_answer_has_exactly_the_documented_form(front: Front) -> None:
    minted = await front.hold("alice")
    front.clock.advance(timedelta(seconds=12.5))
    answer = await front.client.get("/tokens/alice")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json() == {
        "access_token": minted["access_token"],
        "token_type": "Bearer",
        "scope": "Office Manager",
        "expires_in": 3587,
        "expires_at": "2026-01-01T01:00:00Z",
    }


async def test_a_token_without_scope_has_null(front: Front) -> None:
    body = {"refresh_token": "r", "access_token": "a", "expires_in": LIFE}
    await front.client.put("/grants/alice", json=body)
    assert (await front.client.get("/tokens/alice")).json()["scope"] is None


async def test_fractions_of_a_second_stay_in_expires_at_and_are_cut_from_expires_in(front: Front) -> None:
    front.clock.advance(timedelta(microseconds=250))
    await front.hold("alice")
    front.clock.advance(timedelta(microseconds=999_999))
    answer = (await front.client.get("/tokens/alice")).json()
    assert (answer["expires_in"], answer["expires_at"]) == (3599, "2026-01-01T01:00:00.000250Z")


async def test_the_company_is_answered_like_a_user(front: Front) -> None:
    answer = await front.client.get("/tokens/@company")
    assert set(answer.json()) == {"access_token", "token_type", "scope", "expires_in", "expires_at"}
    assert await front.versature.whose(answer.json()["access_token"]) == "@company"
    assert (await front.client.get("/tokens/%40company")).json() == answer.json()


async def test_cache_status_tells_a_first_token_from_hits_in_memory(front: Front) -> None:
    found = [cache_status(await front.client.get("/tokens/@company")) for _ in range(2)]
    front.clock.advance(5)
    found += [cache_status(await front.client.get("/tokens/@company")) for _ in range(2)]
    assert found == [
        "token-broker; fwd=uri-miss; stored",
        "token-broker; hit; ttl=3600; detail=local",
        "token-broker; hit; ttl=3595; detail=local",
        "token-broker; hit; ttl=3595; detail=local",
    ]


async def test_cache_status_says_stale_for_a_renewed_token(front: Front) -> None:
    before = await front.hold("alice")
    front.clock.advance(DUE)
    answer = await front.client.get("/tokens/alice")
    assert cache_status(answer) == "token-broker; fwd=stale; stored"
    assert answer.json()["access_token"] != before["access_token"]
    assert answer.json()["expires_in"] == LIFE


async def test_an_expired_token_is_renewed_and_never_handed_out(front: Front) -> None:
    before = await front.hold("alice")
    front.clock.advance(LIFE + 1)
    answer = await front.client.get("/tokens/alice")
    assert cache_status(answer) == "token-broker; fwd=stale; stored"
    assert answer.json()["access_token"] != before["access_token"]


async def test_cache_status_says_collapsed_to_all_but_the_one_whose_request_renews(front: Front) -> None:
    await front.hold("alice")
    await front.versature.switch(fault="delay", delay_seconds=0.3, fault_times=1)
    front.clock.advance(LIFE)
    answers = await asyncio.gather(*(front.client.get("/tokens/alice") for _ in range(5)))
    assert sorted(cache_status(answer) for answer in answers) == [
        "token-broker; fwd=stale; stored",
        *["token-broker; fwd=stale; stored; collapsed"] * 4,
    ]
    assert len({answer.json()["access_token"] for answer in answers}) == 1
    assert len(await front.versature.redemptions("alice")) == 1


async def test_when_renewal_fails_the_old_token_is_served_while_valid_and_the_caller_is_told(front: Front) -> None:
    before = await front.hold("alice")
    await front.versature.switch(fault="server_error")
    front.clock.advance(3590)
    for min_ttl in ("", "?min_ttl=1800"):
        answer = await front.client.get(f"/tokens/alice{min_ttl}")
        assert cache_status(answer) == "token-broker; hit; ttl=10; detail=renewal_failing"
        assert answer.json()["access_token"] == before["access_token"]
    front.clock.advance(5)
    assert code_of(await front.client.get("/tokens/alice")) == (503, "upstream_unavailable")


async def test_what_is_cached_flows_while_the_database_is_away(front: Front) -> None:
    await front.hold("alice")
    await front.client.get("/tokens/alice")
    front.clock.advance(1000)
    async with front.database_away():
        answer = await front.client.get("/tokens/alice")
        assert cache_status(answer) == "token-broker; hit; ttl=2600; detail=local"
        assert code_of(await front.client.get("/tokens/bob")) == (503, "store_unavailable")


MIN_TTLS = [
    ("", 3600, "hit"),
    ("min_ttl=0", 3600, "hit"),
    ("min_ttl=1800", 1800, "hit"),
    ("min_ttl=1800", 1799, "fwd"),
    ("min_ttl=100000000000000000000", 1800, "hit"),
    ("min_ttl=100000000000000000000", 1799, "fwd"),
    ("min_ttl=1200", 1200, "hit"),
    ("min_ttl=1200", 1199, "fwd"),
    ("", 0.3 * LIFE, "hit"),
    ("", 0.2 * LIFE, "fwd"),
]


async def test_min_ttl_counts_to_the_second_and_more_than_half_the_life_counts_as_half(front: Front) -> None:
    """The clock is set so that `left` seconds are left; renewal by itself would not be due yet."""
    found = []
    for number, (query, left, _) in enumerate(MIN_TTLS):
        user = f"user{number}"
        await front.hold(user)
        front.clock.advance(LIFE - left)
        found.append((query, left, cache_status(await front.client.get(f"/tokens/{user}?{query}")).split()[1][:3]))
    assert found == MIN_TTLS


@pytest.mark.parametrize(("life", "wanted"), [(100, 10), (3600, 60)])
async def test_an_omitted_min_ttl_is_a_tenth_of_the_life_and_at_most_a_minute(
    front: Front, life: int, wanted: int
) -> None:
    """Renewal falls due long before that, so the rule shows only where the row says otherwise."""
    await front.versature.switch(token_lifetime_seconds=life)
    await front.hold("alice")
    grant = await front.container.services.grants.get(GrantId("default", "alice"))
    assert grant is not None
    late = int((front.clock.now() + timedelta(seconds=life)).timestamp() * 1_000_000)
    async with front.container.database.write() as connection:
        await connection.exec_driver_sql("UPDATE grants SET due_at = ?", (late,))
    front.clock.advance(life - wanted)
    assert "hit" in cache_status(await front.client.get("/tokens/alice"))
    front.clock.advance(0.001)
    assert "fwd=stale" in cache_status(await front.client.get("/tokens/alice"))


BAD_MIN_TTLS = ["-1", "1.5", "soon", "", "%20", "1e3", "0x10", "9" * 5000]


async def test_min_ttl_is_whole_seconds(front: Front) -> None:
    await front.hold("alice")
    found = {text[:9]: code_of(await front.client.get(f"/tokens/alice?min_ttl={text}")) for text in BAD_MIN_TTLS}
    assert found == dict.fromkeys((text[:9] for text in BAD_MIN_TTLS), (422, "invalid_request"))


async def test_a_rejected_token_is_renewed_once_for_any_number_of_reports(front: Front) -> None:
    rejected = (await front.hold("alice"))["access_token"]
    report = {"access_token": rejected}
    answers = await asyncio.gather(*(front.client.post("/tokens/alice/rejected", json=report) for _ in range(8)))
    answers.append(await front.client.post("/tokens/alice/rejected", json=report))
    assert {answer.status_code for answer in answers} == {200}
    (fresh,) = {answer.json()["access_token"] for answer in answers}
    assert fresh != rejected
    assert len(await front.versature.redemptions("alice")) == 1
    assert answers[-1].headers["Cache-Control"] == "no-store"
    assert set(answers[-1].json()) == {"access_token", "token_type", "scope", "expires_in", "expires_at"}


async def test_a_second_rejection_within_half_a_minute_is_429_and_the_distance_doubles(front: Front) -> None:
    token = (await front.hold("alice"))["access_token"]
    distances = []
    for _ in range(3):
        answer = await front.client.post("/tokens/alice/rejected", json={"access_token": token})
        token = answer.json()["access_token"]
        refused = await front.client.post("/tokens/alice/rejected", json={"access_token": token})
        assert code_of(refused) == (429, "rejected_too_often")
        distances.append(int(refused.headers["Retry-After"]))
        front.clock.advance(distances[-1])
    assert distances == [30, 60, 120]
    assert len(await front.versature.redemptions("alice")) == 3


async def test_a_rejected_token_never_comes_back_when_its_renewal_fails(front: Front) -> None:
    token = (await front.hold("alice"))["access_token"]
    await front.versature.switch(fault="rate_limited_retry_after", retry_after_seconds=7)
    answer = await front.client.post("/tokens/alice/rejected", json={"access_token": token})
    assert code_of(answer) == (503, "upstream_unavailable")
    assert int(answer.headers["Retry-After"]) == 7
    assert token not in answer.text


async def test_a_rejected_token_never_comes_back_even_if_the_provider_repeats_it(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = (await front.hold("alice"))["access_token"]

    async def repeat(*_: object) -> TokenAnswer:
        return TokenAnswer(token, "another", None, timedelta(hours=1), sent_at=front.clock.now())

    monkeypatch.setattr(VersatureServer, "refresh", repeat)
    answer = await front.client.post("/tokens/alice/rejected", json={"access_token": token})
    assert code_of(answer) == (502, "invalid_upstream_answer")
    assert token not in answer.text


async def test_a_report_of_a_strange_token_costs_the_provider_nothing(front: Front) -> None:
    current = (await front.hold("alice"))["access_token"]
    for strange in ("stranger", "ü" * 50, current[:-1], " " + current):
        answer = await front.client.post("/tokens/alice/rejected", json={"access_token": strange})
        assert answer.json()["access_token"] == current
    assert await front.versature.redemptions() == []
    empty = await front.client.post("/tokens/alice/rejected", json={"access_token": ""})
    assert code_of(empty) == (422, "invalid_request")


async def test_a_rejection_of_nobodys_token_is_404(front: Front) -> None:
    answer = await front.client.post("/tokens/alice/rejected", json={"access_token": "x"})
    assert code_of(answer) == (404, "grant_not_found")


async def test_a_good_request_id_comes_back_and_a_bad_one_is_replaced(front: Front) -> None:
    for path in ("/tokens/alice", "/healthz", "/nowhere", "/connect/unknown", "/docs"):
        for given in ("abc", "A.b_c:d-9", "x" * 128):
            answer = await front.client.get(path, headers={"X-Request-ID": given})
            assert answer.headers.get_list("X-Request-ID") == [given]
        for bad in ("", "x" * 129, "a b", "a\tb", "a/b", 'a"b', "a<b>", "é"):
            answer = await front.client.get(path, headers={b"X-Request-ID": bad.encode("latin-1")})
            assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"]), bad
    problem = await front.client.get("/tokens/alice", headers={"X-Request-ID": "mine"})
    assert problem.json()["request_id"] == "mine"
    ids = {(await front.client.get("/healthz")).headers["X-Request-ID"] for _ in range(5)}
    assert len(ids) == 5


# What stands in the address, and the user that it names; None where it names nobody.
ADDRESSES = [
    ("alice", "alice"),
    ("Alice", "Alice"),
    ("%61lice", "alice"),
    ("jos%C3%A9", "josé"),
    ("jose%CC%81", "jose\u0301"),
    ("%E2%9C%93%F0%9F%A6%8A", "✓🦊"),
    ("a%20b", "a b"),
    ("%20", " "),
    ("a+b", "a+b"),
    ("a%2Bb", "a+b"),
    ("a%25b", "a%b"),
    ("a%2525b", "a%25b"),
    ("a%3Fb%23c", "a?b#c"),
    ("a%3Bb=c&d", "a;b=c&d"),
    ("a%5Cb", "a\\b"),
    ("a@b", "a@b"),
    ("%E2%80%8B", "\u200b"),
    ("x" * 255, "x" * 255),
    ("%F0%9F%A6%8A" * 255, "🦊" * 255),
    ("x" * 256, None),
    ("%F0%9F%A6%8A" * 256, None),
    ("a%2Fb", None),
    ("a%2fb", None),
    ("%2F", None),
    ("a%ff", None),
    ("%C3", None),
    ("%ED%A0%80", None),
    ("%C0%AF", None),
    ("%00", None),
    ("a%00b", None),
    ("a%0Ab", None),
    ("a%09b", None),
    ("a%7F", None),
    ("%C2%85", None),
    ("a%zzb", None),
    ("a%", None),
    ("a%2", None),
    ("@x", None),
    ("@Company", None),
    ("@company%20", None),
    ("%40", None),
    ("@", None),
]


async def raw_get(front: Front, path: str) -> httpx.Response:
    """A request whose path goes out as it stands."""
    url = httpx.URL(front.broker.base_url).copy_with(raw_path=path.encode())
    return await front.client.get(url)


async def test_an_address_names_exactly_one_user_or_is_422(front: Front) -> None:
    named: list[tuple[str, str | None]] = []
    for address, user in ADDRESSES:
        answer = await raw_get(front, f"/tokens/{address}")
        if code_of(answer) == (422, "invalid_request"):
            named.append((address, None))
            continue
        assert code_of(answer) == (404, "grant_not_found"), (address, answer.text)
        assert user is not None, (address, answer.text)
        assert answer.json()["connect"]["href"] == f"/grants/{quote(user, safe='')}/connect?application=default"
        named.append((address, user))
    assert named == ADDRESSES


async def test_a_user_that_no_client_would_guess_gets_its_own_token(front: Front) -> None:
    for user in ("josé", "jose\u0301", "a b", "a%b", "a%25b", "✓🦊"):
        minted = await front.hold(user)
        answer = await raw_get(front, f"/tokens/{quote(user, safe='')}")
        assert answer.json()["access_token"] == minted["access_token"]
    assert len((await front.client.get("/grants")).json()["items"]) == 6


async def test_no_address_but_the_documented_one_leads_to_a_token(front: Front) -> None:
    await front.hold("alice")
    paths = ["/tokens/alice/", "/tokens//alice", "//tokens/alice", "/tokens", "/tokens/", "/Tokens/alice"]
    paths += ["/tokens%2Falice", "/tokens/alice%2F", "/tokens/alice/x", "/%74okens/alice/..", "/grants/../tokens/bob"]
    statuses = {path: (await raw_get(front, path)).status_code for path in paths}
    assert set(statuses.values()) <= {404, 422}, statuses


async def test_an_encoded_route_name_is_the_route(front: Front) -> None:
    await front.hold("alice")
    assert (await raw_get(front, "/%74okens/alice")).status_code == 200


async def test_without_a_local_cache_every_request_asks_the_database(tmp_path: Path) -> None:
    async with front_in(tmp_path, BROKER_LOCAL_CACHE_SECONDS="0") as front:
        await front.hold("alice")
        found = {cache_status(await front.client.get("/tokens/alice")) for _ in range(3)}
    assert found == {"token-broker; hit; ttl=3600; detail=database"}


async def test_a_clock_that_was_set_back_hands_nothing_out_on_the_word_of_times_to_come(tmp_path: Path) -> None:
    async with front_in(tmp_path, BROKER_LOCAL_CACHE_SECONDS="0") as front:
        await front.hold("alice")
        leaver = await front.admit("leaver", Scope.TOKENS)
        for _ in range(3):
            assert (await front.bare("GET", "/tokens/alice", leaver)).status_code == 200
        front.clock.advance(-600)
        assert cache_status(await front.bare("GET", "/tokens/alice", leaver)).endswith("detail=database")
        await SqlDirectoryStore(front.container.database).remove_caller("leaver")  # as another process would
        assert code_of(await front.bare("GET", "/tokens/alice", leaver)) == (401, "invalid_api_key")
