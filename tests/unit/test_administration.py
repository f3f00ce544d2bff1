"""Decisions about callers and applications."""

import re
from dataclasses import replace
from datetime import timedelta
from typing import cast

import pytest

from service.core.access.administration import MOST_PATTERNS, Administration
from service.core.access.registration import Registration, RegistrationChanges, check_url
from service.core.audit import Audit
from service.core.errors import ApplicationNotFound, Conflict, InvalidApiKey, InvalidRequest, ResourceNotFound
from service.core.model import Caller, GrantType, Scope
from service.core.sealing.digests import fingerprint, secret_digest
from tests.support.replicas import House, Replica, application

SALES = Registration(
    name="sales",
    client_id="id",
    client_secret="s3cret",
    grant_types=frozenset({GrantType.AUTHORIZATION_CODE}),
    base_url="https://provider.example/api",
)
CRM = Caller("crm", frozenset({Scope.TOKENS}), users=("*",), applications=("*",))


@pytest.fixture
def administration(house: House, replica: Replica) -> Administration:
    audit = Audit(house.audit, house.clock)
    return Administration(house.rows, replica.vault, replica.directory, audit, house.clock, reserved=["default"])


async def test_endpoints_left_out_follow_from_the_base_url(administration: Administration) -> None:
    for base in ("https://provider.example/api", "https://provider.example/api/"):
        app = await administration.add_application(replace(SALES, name=f"sales-{len(base)}", base_url=base))
        assert app.token_url == "https://provider.example/api/oauth/token/"
        assert app.authorize_url == "https://provider.example/api/oauth/authorize/"
        assert app.revocation_url is None


async def test_endpoints_that_were_given_are_kept(administration: Administration) -> None:
    given = ("https://a.example/t", "https://b.example/a?x=1", "https://a.example/r")
    app = await administration.add_application(
        replace(SALES, token_url=given[0], authorize_url=given[1], revocation_url=given[2])
    )
    assert (app.token_url, app.authorize_url, app.revocation_url) == given


async def test_a_client_secret_is_sealed_for_its_application_and_hidden_from_every_repr(
    administration: Administration, house: House, replica: Replica
) -> None:
    app = await administration.add_application(SALES)
    assert replica.vault.open_client_secret(app) == "s3cret"
    assert "s3cret" not in repr(SALES)
    assert "s3cret" not in repr(await house.rows.load())


@pytest.mark.parametrize(
    "change",
    [
        {"name": "two words"},
        {"grant_types": frozenset()},
        {"client_id": ""},
        {"client_secret": ""},
        {"base_url": "provider.example"},
        {"base_url": "ftp://provider.example"},
        {"base_url": "https://provider.example/api?tenant=1"},
        {"base_url": "https://provider.example/api#"},
        {"token_url": "https://user:pass@provider.example/"},
        {"authorize_url": "https://provider.example/#here"},
        {"revocation_url": "https://provider.example/ x"},
    ],
    ids=repr,
)
async def test_an_impossible_registration_is_refused(
    administration: Administration, house: House, change: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest):
        await administration.add_application(replace(SALES, **change))  # type: ignore[arg-type]
    assert (await house.rows.load()).applications == ()


@pytest.mark.parametrize(
    "url", ["", "/token", "https://", "https://[::1", "https://a.example:x/", "https://a.example:99999/", "\nhttps://a"]
)
def test_an_endpoint_is_an_absolute_url(url: str) -> None:
    with pytest.raises(InvalidRequest):
        check_url(url)


async def test_a_taken_or_reserved_name_is_a_conflict(administration: Administration) -> None:
    await administration.add_application(SALES)
    await administration.add_caller(CRM)
    for name in ("sales", "default"):
        with pytest.raises(Conflict):
            await administration.add_application(replace(SALES, name=name))
    for name in ("crm", "admin"):
        with pytest.raises(Conflict):
            await administration.add_caller(replace(CRM, name=name))


async def test_removing_what_is_not_there_is_told(administration: Administration) -> None:
    with pytest.raises(ApplicationNotFound):
        await administration.remove_application("sales")
    with pytest.raises(ResourceNotFound):
        await administration.remove_caller("crm")
    with pytest.raises(ResourceNotFound):
        await administration.rotate_key("crm")
    with pytest.raises(ApplicationNotFound):
        await administration.change_application("sales", {"client_id": "x"})
    with pytest.raises(ResourceNotFound):
        await administration.change_caller("crm", users=["*"])
    with pytest.raises(ResourceNotFound):
        await administration.add_key("crm")
    await administration.add_caller(CRM)
    with pytest.raises(ResourceNotFound):
        await administration.remove_key("crm", "nothing")


async def test_a_default_is_set_for_each_grant_type_named(administration: Administration, house: House) -> None:
    await administration.add_application(replace(SALES, grant_types=frozenset(GrantType)))
    await administration.add_application(replace(SALES, name="other", grant_types=frozenset(GrantType)))
    await administration.set_default("sales")
    assert (await house.rows.load()).defaults == dict.fromkeys(GrantType, "sales")
    await administration.set_default("other", frozenset({GrantType.AUTHORIZATION_CODE}))
    assert (await house.rows.load()).defaults == {
        GrantType.AUTHORIZATION_CODE: "other",
        GrantType.CLIENT_CREDENTIALS: "sales",
    }


async def test_a_default_must_exist_and_allow_the_grant_type(administration: Administration, house: House) -> None:
    await administration.add_application(SALES)
    with pytest.raises(ApplicationNotFound):
        await administration.set_default("nothing")
    with pytest.raises(Conflict):
        await administration.set_default("sales", frozenset(GrantType))
    assert (await house.rows.load()).defaults == {}


async def test_the_application_of_the_settings_can_be_the_default_and_is_changed_there_only(house: House) -> None:
    replica = house.replica(settings=application("default"))
    audit = Audit(house.audit, house.clock)
    administration = Administration(
        house.rows, replica.vault, replica.directory, audit, house.clock, reserved=["default"]
    )
    await administration.set_default("default")
    assert (await house.rows.load()).defaults == dict.fromkeys(GrantType, "default")
    with pytest.raises(Conflict):
        await administration.change_application("default", {"client_id": "other"})
    with pytest.raises(Conflict):
        await administration.remove_application("default")


async def test_a_new_client_secret_changes_nothing_else(
    administration: Administration, house: House, replica: Replica
) -> None:
    before = await administration.add_application(replace(SALES, oauth_scope="s", vendor_id="v", pkce=True))
    after = await administration.change_application("sales", {"client_secret": "n3w"})
    assert replica.vault.open_client_secret(after) == "n3w"
    assert replace(after, sealed_secret=before.sealed_secret) == before
    assert (await house.rows.load()).applications == (after,)
    assert fingerprint(after) == fingerprint(before)


async def test_who_changes_where_the_client_secret_is_sent_must_know_it(
    administration: Administration, house: House, replica: Replica
) -> None:
    before = await administration.add_application(SALES)
    elsewhere = "https://elsewhere.example/token"
    for changes in ({"token_url": elsewhere}, {"revocation_url": "https://provider.example/revoke"}):
        with pytest.raises(InvalidRequest, match="client secret"):
            await administration.change_application("sales", cast(RegistrationChanges, changes))
    assert (await house.rows.load()).applications == (before,)
    same = await administration.change_application("sales", {"token_url": before.token_url, "revocation_url": None})
    assert same == before
    moved = await administration.change_application("sales", {"token_url": elsewhere, "client_secret": "known"})
    assert (moved.token_url, replica.vault.open_client_secret(moved)) == (elsewhere, "known")


async def test_refresh_tokens_are_revoked_where_they_are_issued_and_sent_nowhere_else(
    administration: Administration, house: House
) -> None:
    for url in ("https://elsewhere.example/r", "http://provider.example/r", "https://provider.example:8443/r"):
        with pytest.raises(InvalidRequest, match="origin"):
            await administration.add_application(replace(SALES, revocation_url=url))
    before = await administration.add_application(replace(SALES, revocation_url="https://PROVIDER.example:443/r"))
    for changes in ({"revocation_url": "https://elsewhere.example/r"}, {"token_url": "https://elsewhere.example/t"}):
        with pytest.raises(InvalidRequest, match="origin"):
            await administration.change_application(
                "sales", cast(RegistrationChanges, {**changes, "client_secret": "known"})
            )
    assert (await house.rows.load()).applications == (before,)


async def test_a_secret_is_rolled_wherever_an_old_row_revokes(administration: Administration, house: House) -> None:
    app = await administration.add_application(SALES)
    await house.rows.change_application("sales", lambda row: replace(row, revocation_url="https://elsewhere.example/r"))
    rolled = await administration.change_application("sales", {"client_secret": "n3w"})
    assert rolled.sealed_secret != app.sealed_secret


async def test_what_an_application_can_do_without_can_be_taken_away(administration: Administration) -> None:
    await administration.add_application(replace(SALES, oauth_scope="s", revocation_url="https://provider.example/r"))
    changed = await administration.change_application("sales", {"revocation_url": None, "pkce": True})
    assert (changed.revocation_url, changed.oauth_scope, changed.pkce) == (None, "s", True)


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": ""},
        {"client_id": "a\0"},
        {"client_secret": ""},
        {"grant_types": frozenset()},
        {"token_url": "nonsense"},
        {"authorize_url": ""},
        {"revocation_url": "ftp://a.example"},
        {"oauth_scope": "\ud800"},
        {"vendor_id": "v" * 1025},
    ],
    ids=repr,
)
async def test_an_impossible_change_is_refused_and_changes_nothing(
    administration: Administration, house: House, changes: RegistrationChanges
) -> None:
    before = await administration.add_application(SALES)
    with pytest.raises(InvalidRequest):
        await administration.change_application("sales", changes)
    assert (await house.rows.load()).applications == (before,)


async def test_without_a_base_url_that_of_the_settings_is_stored(house: House, replica: Replica) -> None:
    base = "https://moved.example/api"
    audit = Audit(house.audit, house.clock)
    administration = Administration(
        house.rows,
        replica.vault,
        replica.directory,
        audit,
        house.clock,
        reserved=[],
        base_url=base,
    )
    app = await administration.add_application(replace(SALES, base_url=None))
    assert app.token_url == f"{base}/oauth/token/"
    given = await administration.add_application(replace(SALES, name="given"))
    assert given.token_url == "https://provider.example/api/oauth/token/"


@pytest.mark.parametrize(
    "change", [{"name": "a/b"}, {"scopes": frozenset()}, {"users": ()}, {"applications": ()}], ids=repr
)
async def test_a_caller_who_could_never_ask_for_anything_is_refused(
    administration: Administration, change: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest):
        await administration.add_caller(replace(CRM, **change))  # type: ignore[arg-type]


async def test_an_administrator_needs_no_users(administration: Administration, house: House) -> None:
    ops = replace(CRM, scopes=frozenset({Scope.ADMIN}), users=())
    await administration.add_caller(ops)
    assert (await house.rows.load()).callers == (ops,)


@pytest.mark.parametrize("pattern", ["", "a/b", "a\n", "\0", "\ud800", "x" * 256], ids=repr)
async def test_a_pattern_that_matches_no_name_is_refused(
    administration: Administration, house: House, pattern: str
) -> None:
    for wrong in (replace(CRM, users=("*", pattern)), replace(CRM, applications=("*", pattern))):
        with pytest.raises(InvalidRequest):
            await administration.add_caller(wrong)
    await administration.add_caller(CRM)
    with pytest.raises(InvalidRequest):
        await administration.change_caller("crm", users=("*", pattern))
    with pytest.raises(InvalidRequest):
        await administration.change_caller("crm", applications=("*", pattern))
    with pytest.raises(InvalidRequest):
        await administration.change_caller("nobody", users=(pattern,))
    with pytest.raises(InvalidRequest):
        await administration.change_caller("nobody", applications=(pattern,))
    assert (await house.rows.load()).callers == (CRM,)


async def test_a_caller_has_so_many_patterns_and_no_more(administration: Administration) -> None:
    many = tuple(f"u{number}" for number in range(MOST_PATTERNS))
    await administration.add_caller(replace(CRM, users=many))
    with pytest.raises(InvalidRequest):
        await administration.change_caller("crm", users=(*many, "one-more"))


async def test_what_a_change_of_rights_does_not_name_stays(administration: Administration, house: House) -> None:
    issued = await administration.add_caller(CRM)
    assert await administration.change_caller("crm", users=["a*"]) == replace(CRM, users=("a*",))
    changed = await administration.change_caller("crm", scopes=[Scope.GRANTS], applications=["b"])
    assert changed == Caller("crm", frozenset({Scope.GRANTS}), ("a*",), ("b",))
    rows = await house.rows.load()
    assert (rows.callers, rows.keys) == ((changed,), (issued.record,))


async def test_a_change_that_leaves_no_right_is_refused_and_changes_nothing(
    administration: Administration, house: House
) -> None:
    await administration.add_caller(CRM)
    with pytest.raises(InvalidRequest):
        await administration.change_caller("crm", scopes=[])
    with pytest.raises(InvalidRequest):
        await administration.change_caller("crm", users=[])
    with pytest.raises(InvalidRequest):
        await administration.change_caller("crm", applications=[])
    assert (await house.rows.load()).callers == (CRM,)


async def test_changes_are_known_to_this_process_at_once(administration: Administration, replica: Replica) -> None:
    key = (await administration.add_caller(CRM)).secret
    assert (await replica.directory.identify(key)).caller == CRM
    await administration.change_caller("crm", users=["a"])
    assert (await replica.directory.identify(key)).caller.users == ("a",)
    await administration.remove_caller("crm")
    with pytest.raises(InvalidApiKey):
        await replica.directory.identify(key)


async def test_a_change_that_was_committed_succeeds_though_it_cannot_be_read_back(
    administration: Administration, house: House
) -> None:
    house.rows.away_for = {"version"}
    await administration.add_caller(CRM)
    house.rows.away_for = set()
    assert (await house.rows.load()).callers == (CRM,)


async def test_keys_rotate_without_a_gap_two_at_a_time(
    administration: Administration, house: House, replica: Replica
) -> None:
    old = await administration.add_caller(CRM)
    new = await administration.add_key("crm")
    for key in (old, new):
        assert (await replica.directory.identify(key.secret)).caller == CRM
    with pytest.raises(Conflict):
        await administration.add_key("crm")
    await administration.remove_key("crm", old.record.id)
    with pytest.raises(InvalidApiKey):
        await replica.directory.identify(old.secret)
    assert (await replica.directory.identify(new.secret)).caller == CRM
    third = await administration.add_key("crm")
    assert replica.directory.keys_of("crm") == sorted([new.record, third.record], key=lambda key: key.id)


async def test_an_expired_key_takes_no_place_and_is_forgotten(
    administration: Administration, house: House, replica: Replica
) -> None:
    first = await administration.add_caller(CRM)
    brief = await administration.add_key("crm", expires_at=house.clock.now() + timedelta(hours=1))
    house.clock.advance(timedelta(hours=1) - timedelta(microseconds=1))
    with pytest.raises(Conflict):
        await administration.add_key("crm")
    house.clock.advance(timedelta(microseconds=1))
    with pytest.raises(InvalidApiKey):
        await replica.directory.identify(brief.secret)
    second = await administration.add_key("crm")
    assert set((await house.rows.load()).keys) == {first.record, second.record}


async def test_a_key_is_neither_born_dead_nor_lives_for_ever_by_its_expiry(
    administration: Administration, house: House
) -> None:
    await administration.add_caller(CRM)
    for wrong in (timedelta(0), timedelta(microseconds=-1), timedelta(days=3650, microseconds=1)):
        with pytest.raises(InvalidRequest):
            await administration.add_key("crm", expires_at=house.clock.now() + wrong)
    assert await administration.add_key("crm", expires_at=house.clock.now() + timedelta(days=3650)) is not None
    assert len((await house.rows.load()).keys) == 2


async def test_an_id_tells_nothing_of_its_key(administration: Administration, house: House) -> None:
    one = await administration.add_caller(CRM, "vtb_same")
    await administration.remove_caller("crm")
    two = await administration.add_caller(CRM, "vtb_same")
    assert one.record.digest == two.record.digest
    assert one.record.id != two.record.id
    assert re.fullmatch(r"[0-9a-f]{8}", one.record.id)
    assert one.record.created_at == house.clock.now()
    assert "vtb_same" not in repr(one)


async def test_a_new_key_is_random_well_formed_and_stored_as_a_digest_only(
    administration: Administration, house: House
) -> None:
    one, two = [(await administration.add_caller(replace(CRM, name=name))).secret for name in ("crm", "erp")]
    assert one != two
    assert re.fullmatch(r"vtb_[A-Za-z0-9_-]{43}", one)
    rows = await house.rows.load()
    assert {key.digest for key in rows.keys} == {secret_digest(one), secret_digest(two)}
    assert one not in repr(rows)


async def test_a_rotated_key_ends_all_others_of_its_caller(
    administration: Administration, house: House, replica: Replica
) -> None:
    old, other = [(await administration.add_caller(replace(CRM, name=name))).secret for name in ("crm", "erp")]
    await administration.add_key("crm")
    new = (await administration.rotate_key("crm")).secret
    digests = {key.digest for key in (await house.rows.load()).keys}
    assert digests == {secret_digest(new), secret_digest(other)}
    assert secret_digest(old) not in digests
