"""What every `AuditStore` promises."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import pytest

from service.core.audit_store import Action, AuditEntry, AuditFilter, AuditStore
from tests.contract.conftest import Stores
from tests.contract.samples import HOUR, MICROSECOND, T0

EVERYTHING = AuditFilter()
FULL = AuditEntry("an-event", T0, "command line", Action.KEY_ADDED, "acme", 'o"dd é', "crm 01", "pending", "r.1", 2**40)
SPARE = AuditEntry("a-count", T0 + MICROSECOND, "-", Action.REFUSED)


def entry(number: int, **fields: object) -> AuditEntry:
    plain = AuditEntry(f"id-{number:04}", T0 + number * MICROSECOND, "crm", Action.TOKEN, "acme", "alice")
    return replace(plain, **fields)  # type: ignore[arg-type]  # each test names real fields


async def ids(audit: AuditStore, which: AuditFilter = EVERYTHING) -> list[str]:
    return [found.id for found in await audit.page(which, after=None, limit=1000)]


def newest_first(entries: Iterable[AuditEntry]) -> list[str]:
    return [one.id for one in sorted(entries, key=lambda one: (one.at, one.id), reverse=True)]


async def test_entries_come_back_as_they_were_put(stores: Stores) -> None:
    await stores.audit.put([FULL, SPARE])
    assert await stores.audit.page(EVERYTHING, after=None, limit=10) == [SPARE, FULL]


async def test_what_is_put_again_takes_its_own_place(stores: Stores) -> None:
    """A flush whose acknowledgement was lost is sent again, perhaps with more in it: nothing counts twice."""
    await stores.audit.put([FULL, SPARE])
    await stores.audit.put([replace(FULL, times=7), SPARE, entry(1)])
    assert {one.id: one.times for one in await stores.audit.page(EVERYTHING, after=None, limit=10)} == {
        FULL.id: 7,
        SPARE.id: 1,
        entry(1).id: 1,
    }


async def test_nothing_to_put_is_no_trouble(stores: Stores) -> None:
    await stores.audit.put([])
    assert await ids(stores.audit) == []


async def test_many_are_put_whole(stores: Stores) -> None:
    many = [entry(number) for number in range(1_100)]
    await stores.audit.put(many)
    found = await stores.audit.page(EVERYTHING, after=None, limit=2_000)
    assert [one.id for one in found] == newest_first(many)


@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        (AuditFilter(since=T0), "0 1 2 3"),
        (AuditFilter(since=T0 + MICROSECOND), "1 2 3"),
        (AuditFilter(until=T0 + MICROSECOND), "0"),
        (AuditFilter(since=T0 + MICROSECOND, until=T0 + 3 * MICROSECOND), "1 2"),
        (AuditFilter(caller="billing"), "1"),
        (AuditFilter(caller="Billing"), ""),
        (AuditFilter(application="sales"), "2"),
        (AuditFilter(user="bob"), "3"),
        (AuditFilter(user="%"), ""),
        (AuditFilter(action=Action.REVOKED), "3"),
        (AuditFilter(caller="crm", user="alice", action=Action.TOKEN), "0 2"),
        (AuditFilter(caller="billing", user="bob"), ""),
    ],
    ids=repr,
)
async def test_a_filter_shows_what_it_names_and_nothing_else(stores: Stores, which: AuditFilter, wanted: str) -> None:
    await stores.audit.put(
        [
            entry(0),
            entry(1, caller="billing"),
            entry(2, application="sales"),
            entry(3, user="bob", action=Action.REVOKED),
        ]
    )
    assert " ".join(sorted(one[-1] for one in await ids(stores.audit, which))) == wanted


async def test_pages_show_each_entry_once_although_many_share_an_instant(stores: Stores) -> None:
    many = [entry(number, at=T0 + (number // 4) * MICROSECOND) for number in range(20)]
    await stores.audit.put(many)
    seen: list[str] = []
    after = None
    while page := await stores.audit.page(EVERYTHING, after=after, limit=3):
        assert len(page) <= 3
        seen += [one.id for one in page]
        after = (page[-1].at, page[-1].id)
    assert seen == newest_first(many)


async def test_paging_goes_on_undisturbed_while_entries_arrive_and_others_are_forgotten(stores: Stores) -> None:
    many = [entry(number) for number in range(10)]
    await stores.audit.put(many)
    first = await stores.audit.page(EVERYTHING, after=None, limit=5)
    await stores.audit.put([entry(number) for number in range(20, 30)])
    assert await stores.audit.forget(T0 + 2 * MICROSECOND, limit=10) == 2
    second = await stores.audit.page(EVERYTHING, after=(first[-1].at, first[-1].id), limit=10)
    assert [one.id for one in (*first, *second)] == newest_first(many[2:])


async def test_the_oldest_are_forgotten_first_a_piece_at_a_time_and_the_limit_itself_stays(stores: Stores) -> None:
    await stores.audit.put([entry(number) for number in range(7)])
    before = T0 + 5 * MICROSECOND
    assert await stores.audit.forget(before, limit=3) == 3
    assert sorted(await ids(stores.audit)) == ["id-0003", "id-0004", "id-0005", "id-0006"]
    assert await stores.audit.forget(before, limit=3) == 2
    assert await stores.audit.forget(before, limit=3) == 0
    assert sorted(await ids(stores.audit)) == ["id-0005", "id-0006"]


async def test_instants_far_away_are_compared_like_any_other(stores: Stores) -> None:
    await stores.audit.put([entry(0)])
    assert await ids(stores.audit, AuditFilter(since=T0 - timedelta(days=20_000), until=T0 + 1_000_000 * HOUR))
