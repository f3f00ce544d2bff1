"""Who is calling, what they may do, and which application serves them."""

import asyncio
from datetime import timedelta

import pytest

from service.core.directory import ADMIN, Directory, may_ask_for, require_scope
from service.core.errors import ApplicationNotFound, InvalidApiKey, NotAllowed, StoreUnavailable
from service.core.model import COMPANY, Caller, GrantType, Scope, needed_grant_type
from service.core.policy import Policy
from service.core.records import ApiKey, DirectoryRows
from service.core.sealing.digests import secret_digest
from tests.support.memory_stores import MemoryDirectoryStore
from tests.support.replicas import House, Replica, application

USERS, COMPANYS = GrantType.AUTHORIZATION_CODE, GrantType.CLIENT_CREDENTIALS
CRM = Caller("crm", frozenset({Scope.TOKENS}), users=("*",), applications=("*",))


async def admit(house: House, caller: Caller = CRM, key: str = "vtb_crm", life: timedelta | None = None) -> None:
    expires_at = house.clock.now() + life if life is not None else None
    assert await house.rows.add_caller(caller, ApiKey(secret_digest(key), caller.name, expires_at))


async def name_of(replica: Replica, key: str) -> str:
    return (await replica.directory.identify(key)).caller.name


async def test_a_key_names_its_caller_and_no_other_key_does(house: House, replica: Replica) -> None:
    await admit(house)
    assert await name_of(replica, "vtb_crm") == "crm"
    for wrong in ("vtb_", "vtb_crm ", "vtb_CRM", "", "\ud800"):
        with pytest.raises(InvalidApiKey):
            await replica.directory.identify(wrong)


async def test_a_key_ends_at_its_expiry_though_the_database_says_nothing(house: House, replica: Replica) -> None:
    await admit(house, life=timedelta(hours=1))
    await asyncio.sleep(3599.9)
    assert await name_of(replica, "vtb_crm") == "crm"
    house.rows.away = True
    await asyncio.sleep(0.1)
    with pytest.raises(InvalidApiKey):
        await replica.directory.identify("vtb_crm")


async def test_a_new_key_works_at_once_and_a_removed_one_ends_within_the_cache_time(
    house: House, replica: Replica
) -> None:
    await replica.directory.check()
    await admit(house)
    assert await name_of(replica, "vtb_crm") == "crm"
    await house.rows.remove_caller("crm")
    await asyncio.sleep(5)
    with pytest.raises(InvalidApiKey):
        await replica.directory.identify("vtb_crm")


async def test_known_keys_cost_one_question_per_cache_time_and_survive_an_outage(
    house: House, replica: Replica
) -> None:
    await admit(house)
    for _ in range(100):
        await replica.directory.identify("vtb_crm")
    assert house.rows.calls["version"] == 1
    house.rows.away = True
    await asyncio.sleep(3600)
    assert await name_of(replica, "vtb_crm") == "crm"


async def test_an_unknown_key_while_the_database_is_away_is_our_trouble_not_the_callers(
    house: House, replica: Replica
) -> None:
    await replica.directory.check()
    house.rows.away = True
    with pytest.raises(StoreUnavailable):
        await replica.directory.identify("vtb_new")


async def test_before_the_first_read_nobody_is_known_and_nobody_is_refused(house: House) -> None:
    await admit(house)
    replica = house.replica(admin_key="vtb_admin")
    house.rows.away = True
    for key in ("vtb_crm", "vtb_admin", "vtb_wrong"):
        with pytest.raises(StoreUnavailable):
            await replica.directory.identify(key)
    assert not replica.directory.is_loaded
    house.rows.away = False
    assert await name_of(replica, "vtb_crm") == "crm"
    assert replica.directory.is_loaded


async def test_a_database_that_hangs_delays_a_known_key_no_longer_than_the_wait_and_then_counts_as_away(
    house: House, replica: Replica
) -> None:
    await admit(house)
    await replica.directory.check()
    house.rows.held["version"] = asyncio.Event()
    await asyncio.sleep(5)
    began = house.clock.monotonic()
    assert await name_of(replica, "vtb_crm") == "crm"
    assert house.clock.monotonic() - began == 15
    with pytest.raises(StoreUnavailable):
        await replica.directory.identify("vtb_new")
    with pytest.raises(StoreUnavailable):
        await replica.directory.check()


async def test_concurrent_callers_share_one_question(house: House, replica: Replica) -> None:
    await admit(house)
    await asyncio.gather(*(replica.directory.identify("vtb_crm") for _ in range(50)))
    assert (house.rows.calls["version"], house.rows.calls["load"]) == (1, 1)


class SlowRows(MemoryDirectoryStore):
    """What it answers is a second old."""

    async def load(self) -> DirectoryRows:
        rows = await super().load()
        await asyncio.sleep(1)
        return rows


async def test_who_catches_up_is_not_content_with_what_others_read_before(house: House) -> None:
    rows = SlowRows()
    directory = Directory(rows, house.clock, Policy(), default_application=None, admin_key=None)
    for name in ("crm", "billing"):
        key = ApiKey(secret_digest(f"vtb_{name}"), name)
        assert await rows.add_caller(Caller(name, frozenset({Scope.TOKENS}), ("*",), ("*",)), key)
    reading = asyncio.create_task(directory.check())
    await asyncio.sleep(0.5)
    await rows.remove_caller("crm")
    await directory.catch_up()
    await reading
    assert [caller.name for caller in directory.callers] == ["billing"]
    with pytest.raises(InvalidApiKey):
        await directory.identify("vtb_crm")


async def test_nothing_is_read_again_while_the_version_stands(house: House, replica: Replica) -> None:
    await admit(house)
    for _ in range(3):
        await replica.directory.check()
    assert (house.rows.calls["version"], house.rows.calls["load"]) == (3, 1)


async def test_the_key_from_the_settings_is_admin_without_tokens(house: House) -> None:
    identity = await house.replica(admin_key="vtb_admin").directory.identify("vtb_admin")
    assert identity.caller == ADMIN
    assert identity.caller.scopes == {Scope.ADMIN, Scope.GRANTS}
    with pytest.raises(InvalidApiKey):
        await house.replica().directory.identify("vtb_admin")


async def test_the_default_is_the_settings_then_the_first_one_added_that_allows_it(house: House) -> None:
    await house.rows.add_application(application("users", USERS))
    await house.rows.add_application(application("both"))
    bare, from_settings = house.replica(), house.replica(settings=application("default", COMPANYS))
    for replica in (bare, from_settings):
        await replica.directory.check()
    assert [app.name for app in bare.directory.applications] == ["users", "both"]
    assert [app.name for app in from_settings.directory.applications] == ["default", "users", "both"]
    assert bare.directory.application_for(None, USERS).name == "users"
    assert bare.directory.application_for(None, COMPANYS).name == "both"
    assert from_settings.directory.application_for(None, USERS).name == "users"
    assert from_settings.directory.application_for(None, COMPANYS).name == "default"


async def test_a_chosen_default_rules_while_it_can_serve(house: House, replica: Replica) -> None:
    for app in (application("first", USERS), application("second", USERS), application("company", COMPANYS)):
        await house.rows.add_application(app)
    await house.rows.set_default(USERS, "second")
    await house.rows.set_default(COMPANYS, "second")
    await replica.directory.check()
    assert replica.directory.application_for(None, USERS).name == "second"
    assert replica.directory.application_for(None, COMPANYS).name == "company"
    await house.rows.remove_application("second")
    await replica.directory.check()
    assert replica.directory.application_for(None, USERS).name == "first"


async def test_the_settings_win_over_a_stored_application_of_the_same_name(house: House) -> None:
    await house.rows.add_application(application("default", client_id="stored"))
    replica = house.replica(settings=application("default", client_id="settings"))
    await replica.directory.check()
    assert [app.client_id for app in replica.directory.applications] == ["settings"]


async def test_an_application_that_is_missing_or_cannot_serve_is_not_found(house: House, replica: Replica) -> None:
    await house.rows.add_application(application("users", USERS))
    await replica.directory.check()
    for name, grant_type in [("none", USERS), ("users", COMPANYS), (None, COMPANYS)]:
        with pytest.raises(ApplicationNotFound):
            replica.directory.application_for(name, grant_type)


def test_only_the_company_is_served_by_client_credentials() -> None:
    assert needed_grant_type(COMPANY) is COMPANYS
    assert needed_grant_type("company") is USERS


@pytest.mark.parametrize(
    ("users", "applications", "user", "app", "allowed"),
    [
        ((), ("*",), "alice", "a", False),
        (("*",), (), "alice", "a", False),
        (("*",), (), "alice", None, True),
        (("*",), ("*",), "alice", "a", True),
        (("*",), ("*",), COMPANY, "a", False),
        (("bob", "al*"), ("b", "a"), "alice", "a", True),
        (("bob",), ("*",), "alice", "a", False),
        (("*",), ("b",), "alice", "a", False),
    ],
)
def test_nothing_is_allowed_by_default(
    users: tuple[str, ...], applications: tuple[str, ...], user: str, app: str | None, allowed: bool
) -> None:
    caller = Caller("crm", frozenset(Scope), users, applications)
    assert may_ask_for(caller, user, app) is allowed


def test_a_scope_must_have_been_given() -> None:
    require_scope(CRM, Scope.TOKENS)
    for scope in (Scope.GRANTS, Scope.ADMIN):
        with pytest.raises(NotAllowed):
            require_scope(CRM, scope)
