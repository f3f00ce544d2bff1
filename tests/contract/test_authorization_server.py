"""What every `AuthorizationServer` promises, and how the real one behaves on a wire where anything can happen."""

import asyncio
import base64
import contextlib
import datetime as dt
import gzip
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sandbox.switches import FaultName
from service.adapters.versature import VersatureServer
from service.core.model import Application, TokenAnswer
from service.core.ports import AuthorizationServer
from service.core.redeeming.upstream import (
    MAX_BODY_BYTES,
    Ambiguous,
    ClientRefused,
    InvalidGrant,
    NotSent,
    OtherRefusal,
    Outcome,
    RateLimited,
    RefusedWithoutCode,
)
from tests.contract.providers import (
    PATIENCE,
    REDIRECT_URI,
    MemoryProvider,
    Observations,
    Provider,
    SandboxProvider,
    adapter,
    sandbox,
    users_application,
)
from tests.contract.samples import T0
from tests.contract.wire import TOKENS, Client, Wire, listening
from tests.support.clock import FakeClock
from tests.support.fake_server import Rotation
from tests.support.ports import free_port

HOUR = timedelta(hours=1)
HURRY = timedelta(milliseconds=300)
SECRET = "s&cret= +%/é"


@pytest.fixture(params=["memory", "sandbox"])
async def provider(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[Provider]:
    if request.param == "memory":
        yield MemoryProvider(clock)
        return
    async with sandbox(clock) as found:
        yield found


async def refresh(provider: Provider, token: str) -> TokenAnswer:
    return await provider.server.refresh(provider.users, provider.user_secret, token)


async def redeem(provider: Provider, code: str) -> TokenAnswer:
    return await provider.server.exchange_code(
        provider.users, provider.user_secret, code=code, redirect_uri=REDIRECT_URI, verifier=None
    )


async def ask_for_company(provider: Provider) -> TokenAnswer:
    return await provider.server.client_credentials(provider.company, provider.company_secret)


# Every server


async def test_a_refresh_brings_new_tokens_as_the_provider_describes_them(provider: Provider) -> None:
    old = await provider.log_in()
    answer = await refresh(provider, old)
    assert answer.access_token
    assert answer.refresh_token not in {None, old}
    assert (answer.scope, answer.expires_in, answer.sent_at) == ("Office Manager", HOUR, T0)


async def test_every_answer_has_an_access_token_of_its_own(provider: Provider) -> None:
    first = await refresh(provider, await provider.log_in())
    second = await refresh(provider, await provider.log_in())
    assert first.access_token != second.access_token


async def test_a_rotated_refresh_token_works_and_the_one_before_does_not(provider: Provider) -> None:
    old = await provider.log_in()
    answer = await refresh(provider, old)
    with pytest.raises(InvalidGrant):
        await refresh(provider, old)
    assert (await refresh(provider, answer.refresh_token or "")).access_token


async def test_without_rotation_the_same_refresh_token_comes_back_and_goes_on_working(provider: Provider) -> None:
    await provider.rotate(Rotation.OFF)
    token = await provider.log_in()
    assert (await refresh(provider, token)).refresh_token == token
    assert (await refresh(provider, token)).refresh_token == token


async def test_under_strict_rotation_a_spent_token_ends_its_whole_family_and_no_other(provider: Provider) -> None:
    await provider.rotate(Rotation.STRICT)
    old, other = await provider.log_in(), await provider.log_in()
    answer = await refresh(provider, old)
    for token in (old, answer.refresh_token or ""):
        with pytest.raises(InvalidGrant):
            await refresh(provider, token)
    assert (await refresh(provider, other)).access_token


async def test_the_company_gets_no_refresh_token(provider: Provider) -> None:
    answer = await ask_for_company(provider)
    assert answer.access_token
    assert (answer.refresh_token, answer.expires_in, answer.sent_at) == (None, HOUR, T0)


async def test_a_code_brings_tokens_once(provider: Provider) -> None:
    code = await provider.code()
    answer = await redeem(provider, code)
    assert answer.access_token
    assert answer.refresh_token
    with pytest.raises(InvalidGrant):
        await redeem(provider, code)


async def test_the_refresh_token_of_a_code_works(provider: Provider) -> None:
    answer = await redeem(provider, await provider.code())
    assert (await refresh(provider, answer.refresh_token or "")).access_token


async def test_what_the_provider_never_issued_is_an_invalid_grant(provider: Provider) -> None:
    with pytest.raises(InvalidGrant):
        await refresh(provider, "made up")
    with pytest.raises(InvalidGrant):
        await redeem(provider, "made up")


async def test_a_refused_client_spends_nothing(provider: Provider) -> None:
    token = await provider.log_in()
    await provider.have("lies_invalid_client")
    with pytest.raises(ClientRefused):
        await refresh(provider, token)
    assert (await refresh(provider, token)).access_token


async def test_a_wrong_registration_is_refused_whatever_it_asks_for(provider: Provider) -> None:
    await provider.reject_client()
    with pytest.raises(ClientRefused):
        await refresh(provider, await provider.log_in())
    with pytest.raises(ClientRefused):
        await redeem(provider, await provider.code())


async def test_a_revoked_refresh_token_no_longer_works(provider: Provider) -> None:
    token = await provider.log_in()
    await provider.server.revoke(provider.users, provider.user_secret, token, hint="refresh_token")
    with pytest.raises(InvalidGrant):
        await refresh(provider, token)


async def test_revoking_what_is_unknown_or_revoked_is_no_error(provider: Provider) -> None:
    token = await provider.log_in()
    for unusable in (token, token, "made up"):
        await provider.server.revoke(provider.users, provider.user_secret, unusable, hint="refresh_token")


async def test_a_refused_client_cannot_revoke(provider: Provider) -> None:
    await provider.reject_client()
    with pytest.raises(ClientRefused):
        await provider.server.revoke(provider.users, provider.user_secret, "any", hint="refresh_token")


async def test_a_request_lost_before_the_provider_acts_spends_nothing(provider: Provider) -> None:
    token = await provider.log_in()
    await provider.have("before_acting")
    with pytest.raises(Ambiguous) as outcome:
        await refresh(provider, token)
    assert not outcome.value.unreadable
    assert (await refresh(provider, token)).access_token


async def test_an_answer_lost_on_its_way_has_spent_the_token(provider: Provider) -> None:
    token = await provider.log_in()
    await provider.have("after_acting")
    with pytest.raises(Ambiguous):
        await refresh(provider, token)
    with pytest.raises(InvalidGrant):
        await refresh(provider, token)


async def test_a_refusal_spends_nothing(provider: Provider) -> None:
    token = await provider.log_in()
    await provider.have("lies_invalid_grant")
    with pytest.raises(InvalidGrant):
        await refresh(provider, token)
    assert (await refresh(provider, token)).access_token


async def test_a_rate_limit_says_how_long_to_wait(provider: Provider) -> None:
    await provider.have("rate_limited")
    with pytest.raises(RateLimited) as outcome:
        await ask_for_company(provider)
    assert outcome.value.retry_after == timedelta(seconds=7)


async def test_times_count_from_the_moment_of_sending(provider: Provider, clock: FakeClock) -> None:
    clock.advance(90)
    assert (await ask_for_company(provider)).sent_at == T0 + timedelta(seconds=90)


# The real one: every fault of the sandbox


EXPECTED: dict[FaultName, type[Outcome] | None] = {
    "none": None,
    "delay": Ambiguous,
    "drip": Ambiguous,
    "drop_before": Ambiguous,
    "drop_after": Ambiguous,
    "rate_limited": RateLimited,
    "rate_limited_retry_after": RateLimited,
    "server_error": Ambiguous,
    "server_error_after": Ambiguous,
    "invalid_client": ClientRefused,
    "invalid_grant": InvalidGrant,
    "refused_without_code": RefusedWithoutCode,
    "html": Ambiguous,
    "truncated": Ambiguous,
    "unreadable": Ambiguous,
    "empty": Ambiguous,
    "huge": Ambiguous,
    "redirect": OtherRefusal,
}
UNREADABLE = {"drip", "html", "truncated", "unreadable", "empty", "huge"}
SLOW = {"delay", "drip"}
LABELS = {
    Ambiguous: "ambiguous",
    RateLimited: "rate_limited",
    ClientRefused: "client_refused",
    InvalidGrant: "invalid_grant",
    RefusedWithoutCode: "refused_without_code",
    OtherRefusal: "other_refusal",
}
KINDS = ("authorization_code", "client_credentials", "refresh_token")


async def ask(provider: SandboxProvider, kind: str) -> TokenAnswer:
    match kind:
        case "refresh_token":
            return await refresh(provider, await provider.log_in())
        case "authorization_code":
            return await redeem(provider, await provider.code())
        case _:
            return await ask_for_company(provider)


def test_every_fault_has_its_outcome() -> None:
    assert set(EXPECTED) == set(get_args(FaultName))


@pytest.mark.parametrize("fault", EXPECTED)
async def test_every_fault_is_sorted_into_its_outcome_and_is_over_with_the_request(
    clock: FakeClock, fault: FaultName
) -> None:
    observed, expected = Observations([]), EXPECTED[fault]
    async with sandbox(clock, deadline=HURRY if fault in SLOW else PATIENCE, observed=observed) as there:
        delay = 0.05 if fault == "drip" else 60
        await there.versature.switch(fault=fault, fault_times=len(KINDS), delay_seconds=delay)
        for outcome in await asyncio.gather(*(ask(there, kind) for kind in KINDS), return_exceptions=True):
            assert type(outcome) is (expected or TokenAnswer)
            assert getattr(outcome, "unreadable", False) == (fault in UNREADABLE)
            seconds = timedelta(seconds=7) if fault == "rate_limited_retry_after" else None
            assert getattr(outcome, "retry_after", None) == seconds
        assert sorted(observed.labels) == [(kind, LABELS[expected] if expected else "ok") for kind in KINDS]
        assert len(await there.versature.calls(endpoint="token")) == len(KINDS)
        if fault not in SLOW:
            for kind in KINDS:
                assert (await ask(there, kind)).access_token


@pytest.mark.parametrize("missing", ["scope", "expires_in", "expires", "token_type", "refresh_token"])
async def test_what_the_provider_leaves_out_is_not_made_up(clock: FakeClock, missing: str) -> None:
    async with sandbox(clock) as there:
        await there.versature.switch(omit=[missing])
        answer = await refresh(there, await there.log_in())
        assert answer.access_token
        assert (answer.scope is None) == (missing == "scope")
        assert (answer.expires_in is None) == (missing == "expires_in")
        assert (answer.refresh_token is None) == (missing == "refresh_token")
        assert (answer.clock_skew is None) == (missing in {"expires", "expires_in"})


@pytest.mark.parametrize("ahead", [0, 90])
async def test_the_providers_clock_is_only_compared(clock: FakeClock, ahead: int) -> None:
    async with sandbox(clock) as there:
        await there.versature.client.post("/sandbox/clock", json={"advance_seconds": ahead})
        answer = await ask_for_company(there)
        assert answer.clock_skew == timedelta(seconds=ahead)
        assert (answer.sent_at, answer.expires_in) == (T0, HOUR)


async def test_a_code_is_redeemed_with_its_verifier(clock: FakeClock) -> None:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(b"the verifier").digest()).rstrip(b"=").decode()
    async with sandbox(clock) as there:
        code = await there.code(code_challenge=challenge, code_challenge_method="S256")
        asked = {"code": code, "redirect_uri": REDIRECT_URI}
        for wrong in (None, "another"):
            with pytest.raises(InvalidGrant):
                await there.server.exchange_code(there.users, there.user_secret, **asked, verifier=wrong)
        assert (
            await there.server.exchange_code(there.users, there.user_secret, **asked, verifier="the verifier")
        ).access_token


async def test_a_revocation_that_fails_is_an_outcome_and_acts_on_nothing(clock: FakeClock) -> None:
    observed = Observations([])
    async with sandbox(clock, observed=observed) as there:
        token = await there.log_in()
        await there.versature.switch(revocation_fault="server_error")
        with pytest.raises(Ambiguous):
            await there.server.revoke(there.users, there.user_secret, token, hint="refresh_token")
        assert observed.labels == [("revocation", "ambiguous")]
        assert (await refresh(there, token)).access_token


# The real one: what it says


@contextlib.asynccontextmanager
async def told(
    clock: FakeClock,
    answer: Callable[[Client], Awaitable[None]] = Client.answer,
    *,
    deadline: timedelta = PATIENCE,
    max_connections: int = 10,
) -> AsyncIterator[tuple[VersatureServer, Application, Wire]]:
    """The adapter, an application, and a server that answers like that."""
    async with (
        listening(answer) as wire,
        adapter(clock, deadline=deadline, max_connections=max_connections) as server,
    ):
        yield server, users_application(wire.base_url), wire


Ask = Callable[[AuthorizationServer, Application], Awaitable[object]]
CREDENTIALS = {"client_id": "sandbox-users", "client_secret": SECRET}
REQUESTS: dict[str, tuple[Ask, dict[str, str]]] = {
    "refresh": (
        lambda server, app: server.refresh(app, SECRET, "r&1= +%/é"),
        {"grant_type": "refresh_token", "refresh_token": "r&1= +%/é"},
    ),
    "company": (
        lambda server, app: server.client_credentials(app, SECRET),
        {"grant_type": "client_credentials"},
    ),
    "company with a scope": (
        lambda server, app: server.client_credentials(replace(app, oauth_scope="Office Manager"), SECRET),
        {"grant_type": "client_credentials", "scope": "Office Manager"},
    ),
    "code": (
        lambda server, app: server.exchange_code(
            app, SECRET, code="c&1", redirect_uri="https://broker/cb?x=1&y", verifier=None
        ),
        {"grant_type": "authorization_code", "code": "c&1", "redirect_uri": "https://broker/cb?x=1&y"},
    ),
    "code with a verifier": (
        lambda server, app: server.exchange_code(app, SECRET, code="c1", redirect_uri="https://b/cb", verifier="v~-."),
        {
            "grant_type": "authorization_code",
            "code": "c1",
            "redirect_uri": "https://b/cb",
            "code_verifier": "v~-.",
        },
    ),
    "revocation of a refresh token": (
        lambda server, app: server.revoke(app, SECRET, "r1", hint="refresh_token"),
        {"token": "r1", "token_type_hint": "refresh_token"},
    ),
    "revocation of an access token": (
        lambda server, app: server.revoke(app, SECRET, "a1", hint="access_token"),
        {"token": "a1", "token_type_hint": "access_token"},
    ),
}


@pytest.mark.parametrize("vendor", [None, "vendor 1"])
@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_carries_exactly_its_fields_and_the_client_in_the_form(
    clock: FakeClock, name: str, vendor: str | None
) -> None:
    send, fields = REQUESTS[name]
    async with told(clock) as (server, app, wire):
        await send(server, replace(app, vendor_id=vendor))
        [heard] = wire.requests
        assert heard.form == {**fields, **CREDENTIALS, **({"vendor_id": vendor} if vendor else {})}
        assert heard.method == "POST"
        assert heard.target == ("/api/oauth/revoke/" if "revocation" in name else "/api/oauth/token/")
        assert heard.headers["content-type"] == "application/x-www-form-urlencoded"
        assert (heard.headers["accept"], heard.headers["accept-encoding"]) == ("application/json", "identity")
        assert "authorization" not in heard.headers


async def test_the_configured_address_is_used_as_it_is(clock: FakeClock) -> None:
    async with told(clock) as (server, app, wire):
        await server.client_credentials(replace(app, token_url=f"{wire.base_url}/a%20b/token?tenant=x%26y"), SECRET)
        assert wire.last.target == "/a%20b/token?tenant=x%26y"
        assert wire.last.headers["host"] == f"127.0.0.1:{wire.port}"


async def test_cookies_are_never_kept(clock: FakeClock) -> None:
    async def with_cookie(client: Client) -> None:
        await client.answer(Set_Cookie="session=alice; Path=/; Max-Age=3600")

    async with told(clock, with_cookie) as (server, app, wire):
        for token in ("r1", "r2"):
            await server.refresh(app, SECRET, token)
        assert [heard.headers.get("cookie") for heard in wire.requests] == [None, None]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_never_followed(clock: FakeClock, status: int) -> None:
    async def elsewhere(client: Client) -> None:
        await client.answer(status, b"", Location="/elsewhere")

    async with told(clock, elsewhere) as (server, app, wire):
        with pytest.raises(OtherRefusal):
            await server.refresh(app, SECRET, "r1")
        with pytest.raises(OtherRefusal):
            await server.revoke(app, SECRET, "r1", hint="refresh_token")
        assert [heard.target for heard in wire.requests] == ["/api/oauth/token/", "/api/oauth/revoke/"]


@pytest.mark.parametrize("location", ["http://[::1", "http://host:port/", "https://xn--a.com/", "mailto:x@y", "/\x01"])
async def test_a_redirect_to_an_impossible_place_is_an_answer_too(clock: FakeClock, location: str) -> None:
    async def nowhere(client: Client) -> None:
        await client.answer(302, b"", Location=location)

    async with told(clock, nowhere) as (server, app, _):
        with pytest.raises(OtherRefusal):
            await server.refresh(app, SECRET, "r1")


async def test_connections_are_kept_and_never_more_than_allowed(clock: FakeClock) -> None:
    async def slowly(client: Client) -> None:
        await asyncio.sleep(0.005)
        await client.answer()

    async with told(clock, slowly, max_connections=3) as (server, app, wire):
        await asyncio.gather(*(server.refresh(app, SECRET, f"r{i}") for i in range(12)))
        assert len(wire.requests) == 12
        assert (wire.open_at_most, wire.connections) == (3, 3)


async def test_a_connection_that_the_provider_closed_meanwhile_costs_nothing(clock: FakeClock) -> None:
    async def once(client: Client) -> None:
        await client.answer()
        client.hang_up()

    async with told(clock, once) as (server, app, wire):
        await server.refresh(app, SECRET, "r1")
        await wire.until(lambda wire: not wire.open_now)
        assert (await server.refresh(app, SECRET, "r2")).access_token
        assert [heard.connection for heard in wire.requests] == [1, 2]


# The real one: not sent


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:{closed}/",
        "https://127.0.0.1:{closed}/",
        "http://no-such-host.invalid/",
        "http://a..b/",
        "https://xn--a.com/",
        "http://" + "a" * 64 + ".invalid/",
        "http://[::1/",
        "ftp://127.0.0.1/",
        "",
    ],
)
async def test_where_nobody_can_be_reached_nothing_is_sent(clock: FakeClock, address: str) -> None:
    observed, url = Observations([]), address.format(closed=free_port())
    app = replace(users_application(""), token_url=url, revocation_url=url)
    async with adapter(clock, observed=observed) as server:
        with pytest.raises(NotSent):
            await server.refresh(app, SECRET, "r1")
        with pytest.raises(NotSent):
            await server.revoke(app, SECRET, "r1", hint="refresh_token")
    assert observed.labels == [("refresh_token", "not_sent"), ("revocation", "not_sent")]


async def test_tls_to_a_port_that_speaks_none_sends_nothing(clock: FakeClock) -> None:
    async with sandbox(clock) as there:
        tls = replace(there.users, token_url=there.users.token_url.replace("http:", "https:"))
        with pytest.raises(NotSent):
            await there.server.refresh(tls, SECRET, await there.log_in())
        assert await there.versature.calls(endpoint="token") == []


async def test_a_handshake_that_never_ends_sends_nothing(clock: FakeClock) -> None:
    async with told(clock, deadline=HURRY) as (server, app, wire):  # waits for the end of a head that never comes
        with pytest.raises(NotSent):
            await server.refresh(replace(app, token_url=f"https://127.0.0.1:{wire.port}/"), SECRET, "r1")
        assert wire.connections == 1
        assert wire.requests == []


async def test_a_server_that_nobody_vouches_for_hears_nothing(clock: FakeClock, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # In a thread, since a failed handshake leaves asyncio's own server with a transport that nobody closes.
        hearing = asyncio.create_task(asyncio.to_thread(hear_over_tls, listener, self_signed(tmp_path)))
        async with adapter(clock) as server:
            app = replace(users_application(""), token_url=f"https://127.0.0.1:{listener.getsockname()[1]}/")
            with pytest.raises(NotSent):
                await server.refresh(app, SECRET, "r1")
        assert await hearing == b""


def hear_over_tls(listener: socket.socket, context: ssl.SSLContext, *, tunnel: bool = False) -> bytes:
    """What one client says behind its handshake, and before that behind its wish for a *tunnel*."""
    connection, _ = listener.accept()
    with contextlib.closing(connection):
        if tunnel:
            assert connection.recv(65536).startswith(b"CONNECT ")
            connection.sendall(b"HTTP/1.1 200 Any\r\n\r\n")
        try:
            with context.wrap_socket(connection, server_side=True) as secured:
                return secured.recv(65536)
        except (ssl.SSLError, ConnectionError):
            return b""


def self_signed(folder: Path, host: str = "127.0.0.1") -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    both = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    both.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context


@pytest.mark.parametrize("status", [200, 407, 502])
async def test_a_proxy_that_makes_no_way_to_the_provider_has_passed_nothing_on(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    async def answer(client: Client) -> None:  # behind a 200, nobody speaks TLS
        await client.answer(status, b"")
        client.hang_up()

    async with listening(answer) as proxy:
        take_proxy(monkeypatch, proxy.port)
        async with adapter(clock) as server:
            with pytest.raises(NotSent):
                await server.refresh(users_application("https://provider.example"), SECRET, "r1")
        assert [(heard.method, heard.target) for heard in proxy.requests] == [("CONNECT", "provider.example:443")]


async def test_what_went_through_a_proxys_tunnel_was_sent(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        take_proxy(monkeypatch, listener.getsockname()[1])
        context = self_signed(tmp_path, "provider.example")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
        hearing = asyncio.create_task(asyncio.to_thread(hear_over_tls, listener, context, tunnel=True))
        async with adapter(clock) as server:
            with pytest.raises(Ambiguous):
                await server.refresh(users_application("https://provider.example"), SECRET, "r1")
        assert (await hearing).startswith(b"POST /api/oauth/token/ ")


def take_proxy(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Let clients that are made from now on go by a proxy on this machine, as an environment says it."""
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "")


async def test_who_waits_for_a_connection_in_vain_has_sent_nothing(clock: FakeClock) -> None:
    async with told(clock, silent, deadline=HURRY, max_connections=1) as (server, app, wire):
        tokens = [f"r{i}" for i in range(5)]
        outcomes = await asyncio.gather(
            *(server.refresh(app, SECRET, token) for token in tokens), return_exceptions=True
        )
        heard = {request.form["refresh_token"] for request in wire.requests}
        assert {type(outcome) for outcome in outcomes} == {NotSent, Ambiguous}
        for token, outcome in zip(tokens, outcomes, strict=True):
            assert isinstance(outcome, Ambiguous) or token not in heard


async def test_who_was_stopped_before_the_first_byte_left_sends_none_when_its_time_is_over(clock: FakeClock) -> None:
    gate = asyncio.Event()

    async def answer(client: Client) -> None:
        await gate.wait()
        await client.answer()

    async with told(clock, answer, max_connections=1) as (server, app, wire):
        first = asyncio.create_task(server.refresh(app, SECRET, "r1"))
        await wire.until(lambda wire: len(wire.requests) == 1)
        stopped = asyncio.create_task(server.refresh(app, SECRET, "r2"))
        await asyncio.sleep(0)
        clock.advance(PATIENCE + timedelta(seconds=1))
        gate.set()
        with pytest.raises(NotSent):
            await stopped
        await first
        await server.refresh(app, SECRET, "r3")
        assert [request.form["refresh_token"] for request in wire.requests] == ["r1", "r3"]


# The real one: answers that break


async def silent(_client: Client) -> None:
    await asyncio.Event().wait()


async def test_a_server_that_hears_and_never_answers_leaves_it_open(clock: FakeClock) -> None:
    async with told(clock, silent, deadline=HURRY) as (server, app, wire):
        with pytest.raises(Ambiguous) as outcome:
            await server.refresh(app, SECRET, "r1")
        assert not outcome.value.unreadable
        assert len(wire.requests) == 1


@pytest.mark.parametrize("drip", [b"H", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{"])
async def test_one_deadline_bounds_an_answer_that_drips_for_ever(clock: FakeClock, drip: bytes) -> None:
    async def dripping(client: Client) -> None:
        await client.say(drip)
        while True:
            await asyncio.sleep(0.01)
            await client.say(b"x")

    async with asyncio.timeout(20), told(clock, dripping, deadline=HURRY) as (server, app, wire):
        with pytest.raises(Ambiguous):
            await server.refresh(app, SECRET, "r1")
        assert len(wire.requests) == 1


@pytest.mark.parametrize(
    "words",
    [b"", b"HTTP/1.", b"HTTP/1.1 200 OK\r\nContent-Le", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00" * 100],
)
async def test_an_answer_that_breaks_off_before_its_body_leaves_it_open(clock: FakeClock, words: bytes) -> None:
    async with told(clock, breaking_off(words)) as (server, app, _):
        with pytest.raises(Ambiguous):
            await server.refresh(app, SECRET, "r1")


def breaking_off(words: bytes) -> Callable[[Client], Awaitable[None]]:
    async def say_and_hang_up(client: Client) -> None:
        await client.say(words)
        client.hang_up()

    return say_and_hang_up


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Ambiguous),
        (500, Ambiguous),
        (503, Ambiguous),
        (302, OtherRefusal),
        (400, RefusedWithoutCode),
        (401, RefusedWithoutCode),
        (404, RefusedWithoutCode),
        (429, RateLimited),
    ],
)
async def test_a_body_that_breaks_off_does_not_undo_a_refusal(
    clock: FakeClock, status: int, expected: type[Outcome]
) -> None:
    head = f"HTTP/1.1 {status} Any\r\nRetry-After: 9\r\nContent-Length: 500\r\n\r\n".encode()
    async with told(clock, breaking_off(head + b'{"error": "invalid_grant"}')) as (server, app, _):
        with pytest.raises(expected) as outcome:
            await server.refresh(app, SECRET, "r1")
        assert type(outcome.value) is expected
        assert outcome.value.retry_after == (None if status == 200 else timedelta(seconds=9))


async def test_a_refusal_whose_body_never_ends_still_is_one(clock: FakeClock) -> None:
    async def half(client: Client) -> None:
        await client.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 500\r\n\r\n{")
        await silent(client)

    async with told(clock, half, deadline=HURRY) as (server, app, _):
        with pytest.raises(RefusedWithoutCode):
            await server.refresh(app, SECRET, "r1")


@pytest.mark.parametrize(("status", "expected"), [(200, Ambiguous), (400, RefusedWithoutCode), (500, Ambiguous)])
async def test_no_more_of_a_body_is_read_than_any_answer_needs(
    clock: FakeClock, status: int, expected: type[Outcome]
) -> None:
    pieces = 0

    async def endless(client: Client) -> None:
        nonlocal pieces
        await client.say(f"HTTP/1.1 {status} Any\r\nContent-Type: application/json\r\n\r\n".encode())
        while True:
            await client.say(b" " * MAX_BODY_BYTES)
            pieces += 1

    async with told(clock, endless) as (server, app, wire):
        with pytest.raises(expected):
            await server.refresh(app, SECRET, "r1")
        await wire.until(lambda wire: not wire.open_now)
    assert pieces < 500  # what fits into the buffers on the way, not what twenty seconds bring


async def test_a_body_as_long_as_allowed_is_read(clock: FakeClock) -> None:
    async def long(client: Client) -> None:
        await client.answer(body=TOKENS.ljust(MAX_BODY_BYTES))

    async with told(clock, long) as (server, app, _):
        assert (await server.refresh(app, SECRET, "r1")).access_token == "a1"


async def test_an_answer_packed_against_our_wish_is_read(clock: FakeClock) -> None:
    async def packed(client: Client) -> None:
        await client.answer(body=gzip.compress(TOKENS), Content_Encoding="gzip")

    async def broken(client: Client) -> None:
        await client.answer(body=b"not packed at all", Content_Encoding="gzip")

    async with told(clock, packed) as (server, app, _):
        assert (await server.refresh(app, SECRET, "r1")).access_token == "a1"
    async with told(clock, broken) as (server, app, _):
        with pytest.raises(Ambiguous) as outcome:
            await server.refresh(app, SECRET, "r1")
        assert outcome.value.unreadable


async def test_time_that_passes_under_way_does_not_lengthen_a_life(clock: FakeClock) -> None:
    async def late(client: Client) -> None:
        clock.advance(30)
        await client.answer()

    async with told(clock, late) as (server, app, _):
        assert (await server.refresh(app, SECRET, "r1")).sent_at == T0


async def test_every_request_is_observed_with_the_time_it_took(clock: FakeClock) -> None:
    async def late(client: Client) -> None:
        clock.advance(3)
        await client.answer()

    observed = Observations([])
    async with listening(late) as wire, adapter(clock, observed=observed) as server:
        app = users_application(wire.base_url)
        await server.refresh(app, SECRET, "r1")
        await server.revoke(app, SECRET, "r1", hint="refresh_token")
    assert observed.requests == [("refresh_token", "ok", 3.0), ("revocation", "ok", 3.0)]


async def test_a_request_that_was_given_up_is_not_observed_as_a_success(clock: FakeClock) -> None:
    observed = Observations([])
    async with listening(silent) as wire, adapter(clock, observed=observed) as server:
        asking = asyncio.create_task(server.refresh(users_application(wire.base_url), SECRET, "r1"))
        await wire.until(lambda wire: bool(wire.requests))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert observed.labels == [("refresh_token", "given_up")]


@pytest.mark.parametrize("body", [b'{"error": "invalid_grant", "error_description": "r1"}', b"r1", b"<p>r1</p>"])
@pytest.mark.parametrize("status", [200, 400, 500])
async def test_no_outcome_quotes_what_was_sent_or_answered(clock: FakeClock, status: int, body: bytes) -> None:
    async def quoting(client: Client) -> None:
        await client.answer(status, body.replace(b"r1", b"quoted-token"))

    async with told(clock, quoting) as (server, app, wire):
        with pytest.raises(Outcome) as outcome:
            await server.refresh(app, SECRET, "quoted-token")
        told_us = f"{outcome.value!r} {outcome.value} {outcome.value.__cause__!r} {outcome.value.__context__!r}"
        assert len(wire.requests) == 1
        for secret in ("quoted-token", SECRET):
            assert secret not in told_us
