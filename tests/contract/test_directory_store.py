"""What every `DirectoryStore` promises."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import NoReturn

import pytest

from service.core.access.directory_store import DirectoryStore
from service.core.errors import InvalidRequest
from service.core.model import Application, Caller, GrantType, Scope
from service.core.records import ApiKey, DirectoryRows, KeyAddition
from tests.contract.conftest import Stores
from tests.contract.samples import HOUR, MICROSECOND, T0, application, caller, key

CODE, CREDENTIALS = GrantType.AUTHORIZATION_CODE, GrantType.CLIENT_CREDENTIALS


async def furnish(directory: DirectoryStore) -> DirectoryRows:
    """The application `acme`, default for codes, and the caller `crm` with one key."""
    assert await directory.add_application(application("acme"))
    await directory.set_default(CODE, "acme")
    assert await directory.add_caller(caller("crm"), key("k1", "crm"))
    return await directory.load()


def contents(rows: DirectoryRows) -> DirectoryRows:
    """*rows* whatever the version."""
    return replace(rows, version=0)


async def test_a_new_directory_is_empty_and_has_a_version(stores: Stores) -> None:
    rows = await stores.directory.load()
    assert contents(rows) == DirectoryRows(0, (), (), (), {})
    assert rows.version == await stores.directory.version()


async def test_an_application_comes_back_as_it_was_added(stores: Stores) -> None:
    full = Application(
        name="full",
        client_id="id é",
        sealed_secret=b"\x00sealed\xff",
        grant_types=frozenset(GrantType),
        token_url="https://provider/token/",
        authorize_url="https://provider/authorize/",
        revocation_url="https://provider/revoke/",
        oauth_scope="Office Manager",
        vendor_id="vendor",
        pkce=True,
    )
    assert await stores.directory.add_application(full)
    assert await stores.directory.add_application(application("plain"))
    assert (await stores.directory.load()).applications == (full, application("plain"))


async def test_a_caller_and_its_key_come_back_as_they_were_added(stores: Stores) -> None:
    full = Caller("crm", frozenset(Scope), ("al*", "@company", 'o"dd', "é"), ("acme", "b*"))
    expiring = key("k1", "crm", expires_at=T0 + timedelta(microseconds=1))
    assert await stores.directory.add_caller(full, expiring)
    assert await stores.directory.add_caller(Caller("ops", frozenset({Scope.ADMIN}), (), ("*",)), key("k2", "ops"))
    rows = await stores.directory.load()
    assert rows.callers == (full, Caller("ops", frozenset({Scope.ADMIN}), (), ("*",)))
    assert sorted(rows.keys, key=lambda one: one.caller) == [expiring, key("k2", "ops")]


async def test_applications_are_in_the_order_they_were_added(stores: Stores) -> None:
    for name in ("b", "c", "a"):
        await stores.directory.add_application(application(name))
    assert [one.name for one in (await stores.directory.load()).applications] == ["b", "c", "a"]
    await stores.directory.remove_application("b")
    await stores.directory.add_application(application("b"))
    assert [one.name for one in (await stores.directory.load()).applications] == ["c", "a", "b"]


async def test_the_place_of_a_removed_last_application_can_be_taken(stores: Stores) -> None:
    for name in ("a", "b"):
        await stores.directory.add_application(application(name))
    await stores.directory.remove_application("b")
    for name in ("c", "d"):
        assert await stores.directory.add_application(application(name))
    assert [one.name for one in (await stores.directory.load()).applications] == ["a", "c", "d"]


async def test_names_are_exact(stores: Stores) -> None:
    await furnish(stores.directory)
    assert await stores.directory.add_application(application("Acme"))
    assert await stores.directory.add_caller(caller("CRM"), key("k2", "CRM"))
    assert not await stores.directory.remove_application("ACME")
    assert not await stores.directory.remove_caller("Crm")


async def test_the_name_of_an_application_is_taken_once(stores: Stores) -> None:
    before = await furnish(stores.directory)
    other = replace(application("acme", CREDENTIALS), client_id="another", sealed_secret=b"another")
    assert not await stores.directory.add_application(other)
    assert await stores.directory.load() == before


async def test_the_name_of_a_caller_is_taken_once_and_its_key_not_at_all(stores: Stores) -> None:
    before = await furnish(stores.directory)
    assert not await stores.directory.add_caller(caller("crm", Scope.ADMIN), key("k2", "crm"))
    assert await stores.directory.load() == before


async def test_a_key_has_one_caller(stores: Stores) -> None:
    before = await furnish(stores.directory)
    assert not await stores.directory.add_caller(caller("thief"), key("k1", "thief"))
    assert await stores.directory.load() == before


async def test_applications_added_at_once_all_find_their_place(stores: Stores) -> None:
    names = [f"app{i}" for i in range(10)]
    done = await asyncio.gather(*(stores.directory.add_application(application(name)) for name in names))
    assert all(done)
    assert sorted(one.name for one in (await stores.directory.load()).applications) == names


async def test_one_name_added_many_times_at_once_is_taken_once(stores: Stores) -> None:
    done = await asyncio.gather(*(stores.directory.add_application(application("acme")) for _ in range(10)))
    assert sum(done) == 1
    assert len((await stores.directory.load()).applications) == 1


async def test_a_removed_application_is_no_default_any_more(stores: Stores) -> None:
    await furnish(stores.directory)
    await stores.directory.set_default(CREDENTIALS, "other")
    assert await stores.directory.remove_application("acme")
    rows = await stores.directory.load()
    assert (rows.applications, rows.defaults) == ((), {CREDENTIALS: "other"})
    assert not await stores.directory.remove_application("acme")


async def test_a_default_chosen_while_its_application_was_being_removed_does_not_wait_for_the_next_of_that_name(
    stores: Stores,
) -> None:
    await furnish(stores.directory)
    await stores.directory.set_default(CREDENTIALS, "other")
    assert await stores.directory.remove_application("acme")
    await stores.directory.set_default(CODE, "acme")
    assert await stores.directory.add_application(application("acme"))
    assert (await stores.directory.load()).defaults == {CREDENTIALS: "other"}
    await stores.directory.set_default(CODE, "acme")
    assert not await stores.directory.add_application(application("acme"))
    assert (await stores.directory.load()).defaults == {CODE: "acme", CREDENTIALS: "other"}


async def test_a_default_stands_for_one_grant_type_and_can_be_changed(stores: Stores) -> None:
    await stores.directory.set_default(CODE, "acme")
    await stores.directory.set_default(CREDENTIALS, "acme")
    await stores.directory.set_default(CODE, "beta")
    assert (await stores.directory.load()).defaults == {CODE: "beta", CREDENTIALS: "acme"}


async def test_the_default_may_be_an_application_that_is_not_stored(stores: Stores) -> None:
    await stores.directory.set_default(CODE, "default")
    assert (await stores.directory.load()).defaults == {CODE: "default"}


async def test_a_removed_caller_takes_its_keys_along_and_nobody_elses(stores: Stores) -> None:
    await furnish(stores.directory)
    await stores.directory.add_caller(caller("erp"), key("k2", "erp"))
    assert await stores.directory.remove_caller("crm")
    rows = await stores.directory.load()
    assert (rows.callers, rows.keys) == ((caller("erp"),), (key("k2", "erp"),))
    assert not await stores.directory.remove_caller("crm")


async def test_a_caller_that_returns_has_only_its_new_key(stores: Stores) -> None:
    await furnish(stores.directory)
    await stores.directory.remove_caller("crm")
    await stores.directory.add_caller(caller("crm"), key("k2", "crm"))
    assert (await stores.directory.load()).keys == (key("k2", "crm"),)


async def test_a_new_key_replaces_all_keys_of_its_caller_and_nobody_elses(stores: Stores) -> None:
    await furnish(stores.directory)
    await stores.directory.add_caller(caller("erp"), key("k2", "erp"))
    assert await stores.directory.replace_keys("crm", key("k3", "crm"))
    assert {one.digest for one in (await stores.directory.load()).keys} == {
        key("k2", "erp").digest,
        key("k3", "crm").digest,
    }


async def test_a_changed_application_keeps_its_name_and_its_place(stores: Stores) -> None:
    for name in ("a", "b"):
        await stores.directory.add_application(application(name))
    other = replace(application("a", *GrantType), client_id="new", sealed_secret=b"new", revocation_url="r", pkce=True)
    assert await stores.directory.change_application("a", lambda _: other) == other
    assert (await stores.directory.load()).applications == (other, application("b"))
    assert await stores.directory.change_application("nobody", lambda _: other) is None


async def test_changed_rights_leave_keys_and_other_callers_alone(stores: Stores) -> None:
    await furnish(stores.directory)
    await stores.directory.add_caller(caller("erp"), key("k2", "erp"))
    other = Caller("crm", frozenset({Scope.ADMIN}), ("a*",), ("b*",))
    assert await stores.directory.change_caller("crm", lambda _: other) == other
    rows = await stores.directory.load()
    assert rows.callers == (other, caller("erp"))
    assert {one.digest for one in rows.keys} == {key("k1", "crm").digest, key("k2", "erp").digest}
    assert await stores.directory.change_caller("nobody", lambda _: other) is None


async def test_changes_at_once_are_all_made(stores: Stores) -> None:
    """Nobody changes what somebody else has changed meanwhile."""
    await furnish(stores.directory)

    async def grow(letter: str) -> None:
        await stores.directory.change_caller("crm", lambda now: replace(now, users=(*now.users, letter)))
        await stores.directory.change_application("acme", lambda now: replace(now, client_id=now.client_id + letter))

    await asyncio.gather(*(grow(letter) for letter in "abcdefgh"))
    rows = await stores.directory.load()
    assert set("abcdefgh") <= set(rows.callers[0].users)
    assert sorted(rows.applications[0].client_id.removeprefix("acme-id")) == list("abcdefgh")


async def test_a_change_that_fails_changes_nothing(stores: Stores) -> None:
    before = await furnish(stores.directory)

    def fail(_: object) -> NoReturn:
        raise InvalidRequest("No.")

    with pytest.raises(InvalidRequest):
        await stores.directory.change_caller("crm", fail)
    with pytest.raises(InvalidRequest):
        await stores.directory.change_application("acme", fail)
    assert contents(await stores.directory.load()) == contents(before)


SECOND_KEY = replace(key("k2", "crm", expires_at=T0 + HOUR), id="second", created_at=T0 + MICROSECOND)
THIRD_KEY = replace(key("k3", "crm"), id="third", created_at=T0)


async def test_a_caller_has_so_many_keys_at_once_and_no_more(stores: Stores) -> None:
    directory = stores.directory
    await furnish(directory)
    assert await directory.add_key(SECOND_KEY, now=T0, most=2) is KeyAddition.ADDED
    assert set((await directory.load()).keys) == {key("k1", "crm"), SECOND_KEY}
    assert await directory.add_key(THIRD_KEY, now=T0 + HOUR - MICROSECOND, most=2) is KeyAddition.TOO_MANY
    assert set((await directory.load()).keys) == {key("k1", "crm"), SECOND_KEY}


async def test_an_expired_key_makes_room_for_a_new_one_and_those_of_others_stay(stores: Stores) -> None:
    directory = stores.directory
    await furnish(directory)
    others = key("k4", "erp", expires_at=T0)
    await directory.add_caller(caller("erp"), others)
    await directory.add_key(SECOND_KEY, now=T0, most=2)
    assert await directory.add_key(THIRD_KEY, now=T0 + HOUR, most=2) is KeyAddition.ADDED
    assert set((await directory.load()).keys) == {key("k1", "crm"), THIRD_KEY, others}


async def test_nobody_gets_a_key_who_is_no_caller(stores: Stores) -> None:
    before = await furnish(stores.directory)
    assert await stores.directory.add_key(key("k2", "nobody"), now=T0, most=2) is KeyAddition.NO_CALLER
    assert contents(await stores.directory.load()) == contents(before)


async def test_keys_added_at_once_are_never_too_many(stores: Stores) -> None:
    await furnish(stores.directory)
    new = [replace(key(f"n{number}", "crm"), id=f"n{number}") for number in range(8)]
    added = await asyncio.gather(*(stores.directory.add_key(one, now=T0, most=2) for one in new))
    assert added.count(KeyAddition.ADDED) == 1
    assert len((await stores.directory.load()).keys) == 2


async def test_one_key_is_removed_by_its_id_and_its_caller(stores: Stores) -> None:
    directory = stores.directory
    await furnish(directory)
    await directory.add_caller(caller("erp"), replace(key("k4", "erp"), id="second"))
    await directory.add_key(SECOND_KEY, now=T0, most=2)
    for owner, key_id in [("crm", "third"), ("erp", "first"), ("nobody", "second"), ("CRM", "second")]:
        assert not await directory.remove_key(owner, key_id)
    assert await directory.remove_key("crm", "second")
    assert {(one.caller, one.id) for one in (await directory.load()).keys} == {("crm", "first"), ("erp", "second")}


async def test_a_caller_that_does_not_exist_gets_no_key(stores: Stores) -> None:
    before = await furnish(stores.directory)
    assert not await stores.directory.replace_keys("nobody", key("k2", "nobody"))
    assert await stores.directory.load() == before


Change = Callable[[DirectoryStore], Awaitable[object]]
CHANGES: dict[str, Change] = {
    "add_application": lambda directory: directory.add_application(application("new")),
    "change_application": lambda directory: directory.change_application("acme", lambda now: replace(now, pkce=True)),
    "remove_application": lambda directory: directory.remove_application("acme"),
    "set_default": lambda directory: directory.set_default(CREDENTIALS, "acme"),
    "add_caller": lambda directory: directory.add_caller(caller("new"), key("k9", "new")),
    "change_caller": lambda directory: directory.change_caller("crm", lambda now: replace(now, users=("new",))),
    "add_key": lambda directory: directory.add_key(SECOND_KEY, now=T0, most=2),
    "remove_key": lambda directory: directory.remove_key("crm", "first"),
    "remove_caller": lambda directory: directory.remove_caller("crm"),
    "replace_keys": lambda directory: directory.replace_keys("crm", ApiKey(b"new", "crm")),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_every_change_moves_the_version(stores: Stores, change: str) -> None:
    before = await furnish(stores.directory)
    await CHANGES[change](stores.directory)
    after = await stores.directory.load()
    assert contents(after) != contents(before)
    assert after.version > before.version
    assert await stores.directory.version() == after.version


def test_no_change_is_missing_here() -> None:
    reading = {"version", "load"}
    assert set(CHANGES) == {name for name in vars(DirectoryStore) if not name.startswith("_")} - reading


async def test_looking_moves_no_version(stores: Stores) -> None:
    before = await furnish(stores.directory)
    await stores.directory.version()
    assert await stores.directory.load() == before
