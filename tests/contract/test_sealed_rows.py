"""What every `SealedRows` promises: every sealed column alike, read in order and written only over what was read."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text

from service.adapters.sql_sealed import SqlSealedRows
from service.core.model import GrantId
from service.core.sealing.resealing import HEAD_BYTES, Head, Kind, Resealed, SealedRow
from tests.contract.conftest import Stores
from tests.contract.databases import postgres_tables
from tests.contract.samples import (
    ALICE,
    SECOND,
    T0,
    application,
    claim,
    connect,
    connected,
    request,
    stored,
    tokens,
)
from tests.support.clock import FakeClock

BOB = GrantId("versature", "bob")
HEADER = b"sealed "
"""How everything begins that the samples put in."""

every_kind = pytest.mark.parametrize("kind", Kind)


async def furnish(stores: Stores) -> None:
    """Alice's and Bob's grants, two applications and two requests, all of them with secrets."""
    await connect(stores.grants, tokens("a-alice", "r-alice", at=T0 + SECOND), "one", ALICE)
    await connect(stores.grants, tokens("a-bob", "r-bob"), "two", BOB)
    for name in ("acme", "billing"):
        assert await stores.directory.add_application(application(name))
    for ticket, grant in ((b"\x00ticket", ALICE), (b"\xffticket", BOB)):
        await stores.authorizations.add(request(ticket, grant))
        await start(stores, ticket, b"sealed verifier " + ticket)


async def start(stores: Stores, ticket: bytes, verifier: bytes | None) -> None:
    assert await stores.authorizations.start(
        ticket, state_digest=b"state of " + ticket, cookie_digest=b"c", sealed_verifier=verifier, at=T0
    )


EXPECTED = {
    Kind.ACCESS_TOKEN: [
        SealedRow(("versature", "alice"), ALICE, b"sealed a-alice"),
        SealedRow(("versature", "bob"), BOB, b"sealed a-bob"),
    ],
    Kind.REFRESH_TOKEN: [
        SealedRow(("versature", "alice"), ALICE, b"sealed r-alice"),
        SealedRow(("versature", "bob"), BOB, b"sealed r-bob"),
    ],
    Kind.CLIENT_SECRET: [
        SealedRow(("acme",), GrantId("acme", ""), b"sealed secret of acme"),
        SealedRow(("billing",), GrantId("billing", ""), b"sealed secret of billing"),
    ],
    Kind.VERIFIER: [
        SealedRow((b"\x00ticket",), ALICE, b"sealed verifier \x00ticket"),
        SealedRow((b"\xffticket",), BOB, b"sealed verifier \xffticket"),
    ],
}


async def all_of(stores: Stores, kind: Kind, header: bytes | None = None) -> list[SealedRow]:
    return list(await stores.sealed.page(kind, header=header, after=None, limit=10))


def resealed(row: SealedRow, new: bytes = b"anew") -> Resealed:
    assert row.sealed is not None
    return Resealed(row.mark, row.sealed, new)


@every_kind
async def test_an_empty_database_holds_no_secret(stores: Stores, kind: Kind) -> None:
    assert await all_of(stores, kind) == []
    assert list(await stores.sealed.heads(kind, after=None, limit=10)) == []


@every_kind
async def test_secrets_come_in_the_order_of_their_rows_with_whose_they_are(stores: Stores, kind: Kind) -> None:
    await furnish(stores)
    assert await all_of(stores, kind) == EXPECTED[kind]


@every_kind
async def test_pages_fit_together(stores: Stores, kind: Kind) -> None:
    await furnish(stores)
    (first,) = await stores.sealed.page(kind, header=None, after=None, limit=1)
    (second,) = await stores.sealed.page(kind, header=None, after=first.mark, limit=1)
    assert [first, second] == EXPECTED[kind]
    assert list(await stores.sealed.page(kind, header=None, after=second.mark, limit=1)) == []
    heads = await stores.sealed.heads(kind, after=first.mark, limit=5)
    assert [head.mark for head in heads] == [second.mark]


async def test_a_page_of_grants_reaches_over_applications(stores: Stores) -> None:
    wanted = [GrantId("a", "z"), GrantId("b", "a"), GrantId("b", "b"), GrantId("b é", "")]
    for grant in reversed(wanted):
        await connected(stores.grants, grant)
    seen, after = list[GrantId](), None
    while page := await stores.sealed.page(Kind.ACCESS_TOKEN, header=None, after=after, limit=1):
        seen += [row.grant for row in page]
        after = page[-1].mark
    assert seen == wanted


@every_kind
async def test_what_begins_with_the_header_is_left_out_of_its_row(stores: Stores, kind: Kind) -> None:
    await furnish(stores)
    (alice, bob) = EXPECTED[kind]
    assert alice.sealed is not None
    assert await all_of(stores, kind, HEADER) == [replace(alice, sealed=None), replace(bob, sealed=None)]
    assert await all_of(stores, kind, alice.sealed) == [replace(alice, sealed=None), bob]
    assert await all_of(stores, kind, b"Sealed ") == EXPECTED[kind]
    assert await all_of(stores, kind, alice.sealed + b"longer") == EXPECTED[kind]


async def test_heads_are_the_first_bytes_and_since_when(stores: Stores) -> None:
    await furnish(stores)
    long = replace(tokens("x"), access_sealed=bytes(range(256)))
    await connect(stores.grants, long, "three", BOB, at=T0)
    alice, bob = await stores.sealed.heads(Kind.ACCESS_TOKEN, after=None, limit=10)
    assert alice == Head(("versature", "alice"), b"sealed a-alice", T0 + SECOND)
    assert (bob.head, bob.since) == (bytes(range(256))[:HEAD_BYTES], T0)
    assert [head.since for head in await stores.sealed.heads(Kind.CLIENT_SECRET, after=None, limit=10)] == [None, None]
    assert [head.since for head in await stores.sealed.heads(Kind.VERIFIER, after=None, limit=10)] == [T0, T0]


async def test_rows_without_a_secret_are_passed_with_none(stores: Stores) -> None:
    await connected(stores.grants, ALICE, None)
    await stores.authorizations.add(request(b"t"))
    assert await all_of(stores, Kind.REFRESH_TOKEN) == [SealedRow(("versature", "alice"), ALICE, None)]
    assert [head.head for head in await stores.sealed.heads(Kind.REFRESH_TOKEN, after=None, limit=9)] == [None]
    assert [row.sealed for row in await all_of(stores, Kind.VERIFIER)] == [None]


@every_kind
async def test_a_secret_is_written_over_the_one_that_was_read(stores: Stores, kind: Kind) -> None:
    await furnish(stores)
    alice, bob = EXPECTED[kind]
    assert await stores.sealed.replace(kind, [resealed(alice)]) == 1
    assert await all_of(stores, kind) == [replace(alice, sealed=b"anew"), bob]
    assert await stores.sealed.replace(kind, [resealed(alice), resealed(bob)]) == 1
    assert await all_of(stores, kind) == [replace(alice, sealed=b"anew"), replace(bob, sealed=b"anew")]
    others = {other: await all_of(stores, other) for other in Kind if other is not kind}
    assert others == {other: EXPECTED[other] for other in others}


@every_kind
async def test_nothing_is_written_over_what_somebody_else_wrote_meanwhile(stores: Stores, kind: Kind) -> None:
    await furnish(stores)
    (alice, bob) = EXPECTED[kind]
    theirs = Resealed(alice.mark, b"sealed what stood there before", b"anew")
    assert await stores.sealed.replace(kind, [theirs]) == 0
    assert await all_of(stores, kind) == [alice, bob]


@every_kind
async def test_a_row_that_is_gone_is_not_made_again(stores: Stores, kind: Kind) -> None:
    await furnish(stores)
    nobody = ("versature", "carol") if kind in {Kind.ACCESS_TOKEN, Kind.REFRESH_TOKEN} else ("carol",)
    mark = (b"carol",) if kind is Kind.VERIFIER else nobody
    assert await stores.sealed.replace(kind, [Resealed(mark, b"sealed", b"anew")]) == 0
    assert await all_of(stores, kind) == EXPECTED[kind]


async def test_nothing_else_of_a_grant_moves(stores: Stores) -> None:
    await furnish(stores)
    assert await claim(stores.grants, "an attempt")
    before = await stored(stores.grants)
    assert before.claim is not None
    await stores.pass_time(SECOND)
    for kind in (Kind.ACCESS_TOKEN, Kind.REFRESH_TOKEN):
        assert await stores.sealed.replace(kind, [resealed(EXPECTED[kind][0])]) == 1
    assert await stored(stores.grants) == replace(before, access_sealed=b"anew", refresh_sealed=b"anew")


async def test_a_renewal_is_saved_over_a_secret_that_was_sealed_anew_under_its_claim(stores: Stores) -> None:
    await furnish(stores)
    assert await claim(stores.grants, "an attempt")
    assert await stores.sealed.replace(Kind.REFRESH_TOKEN, [resealed(EXPECTED[Kind.REFRESH_TOKEN][0])]) == 1
    answer = tokens("a2", "r2", at=T0 + timedelta(minutes=1))
    assert await stores.grants.save(ALICE, generation=1, attempt_id="an attempt", tokens=answer, at=T0)
    # What was read before the renewal is not written over what it brought.
    assert await stores.sealed.replace(Kind.REFRESH_TOKEN, [resealed(EXPECTED[Kind.REFRESH_TOKEN][0])]) == 0
    assert (await stored(stores.grants)).refresh_sealed == b"sealed r2"


async def test_only_new_client_secrets_move_the_directorys_version(stores: Stores) -> None:
    await furnish(stores)
    version = await stores.directory.version()
    for kind in (Kind.ACCESS_TOKEN, Kind.REFRESH_TOKEN, Kind.VERIFIER):
        await stores.sealed.replace(kind, [resealed(EXPECTED[kind][0])])
    assert await stores.directory.version() == version
    await stores.sealed.replace(Kind.CLIENT_SECRET, [resealed(EXPECTED[Kind.CLIENT_SECRET][0])])
    assert await stores.directory.version() > version
    (acme, _) = (await stores.directory.load()).applications
    assert acme == replace(application("acme"), sealed_secret=b"anew")


async def test_a_verifier_sealed_anew_is_what_the_browser_comes_back_to(stores: Stores) -> None:
    await furnish(stores)
    await stores.sealed.replace(Kind.VERIFIER, [resealed(EXPECTED[Kind.VERIFIER][0])])
    taken = await stores.authorizations.take(b"state of \x00ticket")
    assert taken is not None
    assert (taken.sealed_verifier, taken.started_at, taken.completed_at) == (b"anew", T0, None)
    await stores.authorizations.complete(b"\x00ticket", at=T0)
    assert [row.sealed for row in await all_of(stores, Kind.VERIFIER)] == [None, b"sealed verifier \xffticket"]


@every_kind
async def test_two_that_write_at_once_write_every_secret_once(stores: Stores, kind: Kind) -> None:
    await furnish(stores)
    changes = [resealed(row) for row in EXPECTED[kind]]
    written = 0
    while await all_of(stores, kind, b"anew") != [replace(row, sealed=None) for row in EXPECTED[kind]]:
        written += sum(await asyncio.gather(*(stores.sealed.replace(kind, changes) for _ in range(4))))
    assert written == len(changes)


async def test_postgresql_does_not_wait_for_a_row_that_somebody_else_is_writing(postgres_url: str) -> None:
    async with postgres_tables(postgres_url, FakeClock()) as database:
        rows = SqlSealedRows(database)
        async with database.write() as connection:
            await connection.execute(
                text(
                    'INSERT INTO grants (application, "user", state, generation, fingerprint, spent_digests,'
                    " imported_digests, failures, refresh_sealed) VALUES"
                    " ('v', 'alice', 'connected', 1, 'f', '', '', 0, 'old'),"
                    " ('v', 'bob', 'connected', 1, 'f', '', '', 0, 'old')"
                )
            )
        changes = [Resealed(("v", user), b"old", b"anew") for user in ("alice", "bob")]
        async with database.write() as other:
            await other.execute(text("UPDATE grants SET failures = 1 WHERE \"user\" = 'alice'"))
            async with asyncio.timeout(0.5):
                assert await rows.replace(Kind.REFRESH_TOKEN, changes) == 1
        assert await rows.replace(Kind.REFRESH_TOKEN, changes) == 1
