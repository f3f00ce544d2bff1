"""The hot lane changes nothing but the time that an answer takes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.front import ADMIN_KEY
from tests.api.twins import EXPIRING, GRANTS_ONLY, LIFE, NARROW, STRANGE, USERS, Header, Request, Twins, twins_in
from tests.support.brokers import KEY

ALICE = b"/tokens/alice"
USUAL: Header = (b"Authorization", b"Bearer " + KEY.encode())


@pytest.fixture
async def twins(tmp_path: Path) -> AsyncIterator[Twins]:
    async with twins_in(tmp_path) as found:
        yield found


def key(value: str, scheme: bytes = b"Bearer ") -> Header:
    return (b"Authorization", scheme + value.encode())


def asked(target: bytes, *more: Header, method: bytes = b"GET", body: bytes = b"", version: bytes = b"1.1") -> Request:
    return Request(target, (USUAL, *more), method, body, version)


TARGETS = [
    *(ALICE, b"/tokens/%61lice", b"/tokens/bob", b"/tokens/jos%C3%A9", b"/tokens/jos\xc3\xa9", b"/tokens/a%20b"),
    *(b"/tokens/@company", b"/tokens/%40company", b"/tokens/revoked", b"/tokens/nobody", b"/tokens/", b"/tokens"),
    *(b"/tokens/alice/", b"//tokens/alice", b"/Tokens/alice", b"/%74okens/alice", b"/tokens/alice/rejected"),
    *(b"/tokens/a%2Fb", b"/tokens/a%ff", b"/tokens/%00", b"/tokens/%", b"/tokens/alice%0a", b"/tokens/@x"),
    *(b"/tokens/alice#fragment", b"/tokens/alice;x", b"/tokens/../tokens/alice", b"http://broker/tokens/alice", b"*"),
    *(b"/grants/alice", b"/healthz", b"/me", b"/tokens/" + b"x" * 255, b"/tokens/" + b"x" * 256),
]
QUERIES = [
    *(b"", b"?", b"?min_ttl=0", b"?min_ttl=1800", b"?min_ttl=%30", b"?min_ttl=10000000000000", b"?min_ttl=-1"),
    *(b"?min_ttl=", b"?min_ttl=1&min_ttl=2", b"?application=default", b"?application=second", b"?application=nothing"),
    *(
        b"?application=",
        b"?application=default&min_ttl=5",
        b"?x=1",
        b"?min_ttl=0#x",
        b"?%6din_ttl=0",
        b"?application=%00",
    ),
]
AUTHORIZATIONS: list[tuple[Header, ...]] = [
    (),
    (USUAL,),
    *((key(value),) for value in (NARROW, EXPIRING, GRANTS_ONLY, STRANGE, ADMIN_KEY, "", "vtb_\u00e9")),
    *(
        (key(KEY, scheme),)
        for scheme in (b"bearer ", b"BEARER ", b"Bearer  ", b"Bearer\t", b"Basic ", b"", b" Bearer ")
    ),
    *((key(KEY + end),) for end in (" ", "\t", " x", ", Bearer x", KEY)),
    (USUAL, USUAL),
    (USUAL, key(STRANGE)),
    (key(STRANGE), USUAL),
    ((b"authorization", USUAL[1]),),
    ((b"AUTHORIZATION", USUAL[1]),),
    ((b"Proxy-Authorization", USUAL[1]),),
]
ODDITIES: list[tuple[Header, ...]] = [
    (),
    *(((b"X-Request-ID", value),) for value in (b"mine", b"a b", b"", b"x" * 128, b"x" * 129, b"\xe9", b"A.b_c:d-9")),
    ((b"X-Request-ID", b"first"), (b"X-Request-ID", b"second")),
    ((b"X-Request-ID", b"not good"), (b"x-request-id", b"good")),
    ((b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),),
    ((b"traceparent", b"nonsense"),),
    ((b"Accept", b"text/html"), (b"Accept-Encoding", b"gzip"), (b"Range", b"bytes=0-1")),
    ((b"If-None-Match", b"*"), (b"Cache-Control", b"no-cache")),
    ((b"Content-Length", b"0"),),
    ((b"Expect", b"100-continue"),),
    ((b"Upgrade", b"h2c"), (b"Connection", b"Upgrade")),
    ((b"X-Forwarded-For", b"10.0.0.1"), (b"X-Forwarded-Proto", b"https"), (b"Forwarded", b"for=10.0.0.1")),
    ((b"X-HTTP-Method-Override", b"DELETE"),),
    ((b"Cookie", b"a=b"), (b"Origin", b"https://crm.example"), (b"User-Agent", b"")),
    ((b"X-Long", b"x" * 30_000),),
]
ODD_ONES = [
    *(asked(ALICE, method=method) for method in (b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE")),
    asked(ALICE, (b"Content-Length", b"2"), body=b"{}"),
    asked(ALICE, (b"Transfer-Encoding", b"chunked"), body=b"2\r\n{}\r\n0\r\n\r\n"),
    asked(ALICE, (b"Content-Length", b"2"), (b"Content-Type", b"application/json"), method=b"POST", body=b"{}"),
    asked(ALICE, version=b"1.0"),
    asked(b"/tokens/alice HTTP/1.1 x"),
]
TABLE = [
    *(asked(target) for target in TARGETS),
    *(asked(ALICE + query) for query in QUERIES),
    *(Request(ALICE, headers) for headers in AUTHORIZATIONS),
    *(Request(b"/tokens/bob", headers) for headers in AUTHORIZATIONS),
    *(asked(ALICE, *headers) for headers in ODDITIES),
    *ODD_ONES,
]


async def test_every_request_is_answered_alike_the_first_time_and_later(twins: Twins) -> None:
    """The first opens the lane, where it may; the second finds it open; the third comes after a confirmation."""
    for request in TABLE:
        await twins.ask(request, request)
    twins.advance(1.25)
    await twins.tick()
    await twins.ask(*TABLE)
    assert twins.quick.by_lane > 80
    assert twins.slow.by_lane == 0
    assert {status.split()[1] for status in twins.answered} >= {b"200", b"401", b"403", b"404", b"405", b"409", b"422"}


MOMENTS = [0.000001, 0.5, 1.249999, 2, 4.999999, 5, 60, 0.1 * LIFE, 0.3 * LIFE, 0.7 * LIFE, 0.8 * LIFE, LIFE - 5, LIFE]


async def test_at_every_moment_of_a_tokens_life_both_answer_alike(twins: Twins) -> None:
    """Confirmations that grow old, keys that end, renewals that fall due, and tokens that expire."""
    several = [asked(ALICE), asked(b"/tokens/bob?min_ttl=1800"), Request(ALICE, (key(NARROW),))]
    several += [Request(ALICE, (key(EXPIRING),)), asked(b"/tokens/@company")]
    for with_ticks in (True, False):
        for moment in MOMENTS:
            await twins.ask(*several, *several)
            twins.advance(moment)
            if with_ticks:
                await twins.tick()
            await twins.ask(*several)
    assert twins.quick.by_lane > 100


async def test_whatever_happens_to_a_grant_or_a_caller_both_answer_alike(twins: Twins) -> None:
    several = [asked(ALICE), Request(ALICE, (key(NARROW),)), asked(ALICE + b"?application=default")]
    again = {"refresh_token": "another", "access_token": "imported", "expires_in": 1800, "scope": "x"}
    administration = [twin.front.container.services.administration for twin in twins.both]

    async def remove_narrow() -> None:
        for part in administration:
            await part.remove_caller("narrow")

    async def prefer_another() -> None:
        for twin in twins.both:
            await twin.front.versature.switch(fault="server_error")

    events = [
        twins.to_both("DELETE", "/grants/alice"),
        twins.to_both("PUT", "/grants/alice", json=again),
        remove_narrow(),
        prefer_another(),
    ]
    for event in events:
        await twins.ask(*several, *several)
        await event
        await twins.ask(*several)
        twins.advance(5)
        await twins.tick()
        await twins.ask(*several, *several)
    assert twins.quick.by_lane > 10


def _sent(parts: tuple[bytes, bytes, tuple[Header, ...], tuple[Header, ...], bytes]) -> Request:
    target, query, credentials, odd, method = parts
    return Request(target + query, (*odd, *credentials), method)


_users = st.sampled_from([user.encode() for user in USERS if user.isascii() and " " not in user])
_escapes = st.tuples(_users, st.integers(0, 20), st.sampled_from([b"%%%02x", b"%%%02X"])).map(
    lambda parts: b"/tokens/" + parts[0][: parts[1]] + b"".join(parts[2] % byte for byte in parts[0][parts[1] :])
)
_noise = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=8).map(str.encode)
_targets = st.sampled_from(TARGETS) | _escapes | _noise.map(lambda end: b"/tokens/" + end)
_queries = st.sampled_from(QUERIES) | _noise.map(lambda end: b"?" + end)
_keys = st.sampled_from(AUTHORIZATIONS) | _noise.map(lambda end: ((b"Authorization", b"Bearer " + end),))
_odd = st.lists(st.sampled_from(ODDITIES), max_size=2).map(lambda several: tuple(sum(several, ())))
_methods = st.sampled_from([b"GET"] * 9 + [b"HEAD", b"POST", b"get"])
requests = st.tuples(_targets, _queries, _keys, _odd, _methods).map(_sent)
pauses = st.sampled_from([0.0] * 4 + MOMENTS) | st.floats(0, LIFE)


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(requests, pauses, st.booleans()), min_size=1, max_size=6))
async def test_no_request_that_can_be_made_up_tells_the_two_apart(
    twins: Twins, story: list[tuple[Request, float, bool]]
) -> None:
    """Every example goes on where the last one left the two."""
    for request, pause, confirmed in story:
        await twins.ask(request, asked(ALICE), request)
        twins.advance(pause)
        if confirmed:
            await twins.tick()
        await twins.ask(request)
