"""Decisions about callers and applications."""

import re
from dataclasses import replace

import pytest

from service.core.administration import Administration, Registration, check_url
from service.core.digests import secret_digest
from service.core.errors import ApplicationNotFound, Conflict, InvalidRequest, ResourceNotFound
from service.core.model import Caller, GrantType, Scope
from tests.support.replicas import House, Replica

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
    return Administration(house.rows, replica.vault, reserved=["default"])


async def test_endpoints_left_out_follow_from_the_base_url(administration: Administration) -> None:
    for base in ("https://provider.example/api", "https://provider.example/api/"):
        app = await administration.add_application(replace(SALES, name=f"sales-{len(base)}", base_url=base))
        assert app.token_url == "https://provider.example/api/oauth/token/"
        assert app.authorize_url == "https://provider.example/api/oauth/authorize/"
        assert app.revocation_url is None


async def test_endpoints_that_were_given_are_kept(administration: Administration) -> None:
    given = ("https://a.example/t", "https://b.example/a?x=1", "http://127.0.0.1:8001/r")
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


async def test_a_default_is_set_for_each_grant_type_named(administration: Administration, house: House) -> None:
    await administration.add_application(SALES)
    await administration.set_default("sales", frozenset(GrantType))
    assert (await house.rows.load()).defaults == dict.fromkeys(GrantType, "sales")


@pytest.mark.parametrize(
    "change", [{"name": "a/b"}, {"scopes": frozenset()}, {"users": ()}, {"applications": ()}], ids=repr
)
async def test_a_caller_who_could_never_ask_for_anything_is_refused(
    administration: Administration, change: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest):
        await administration.add_caller(replace(CRM, **change))  # type: ignore[arg-type]


async def test_an_administrator_needs_no_users(administration: Administration) -> None:
    assert await administration.add_caller(replace(CRM, scopes=frozenset({Scope.ADMIN}), users=()))


async def test_a_new_key_is_random_well_formed_and_stored_as_a_digest_only(
    administration: Administration, house: House
) -> None:
    one, two = await administration.add_caller(CRM), await administration.add_caller(replace(CRM, name="erp"))
    assert one != two
    assert re.fullmatch(r"vtb_[A-Za-z0-9_-]{43}", one)
    rows = await house.rows.load()
    assert {key.digest for key in rows.keys} == {secret_digest(one), secret_digest(two)}
    assert one not in repr(rows)


async def test_a_rotated_key_ends_all_others_of_its_caller(
    administration: Administration, house: House, replica: Replica
) -> None:
    old, other = await administration.add_caller(CRM), await administration.add_caller(replace(CRM, name="erp"))
    new = await administration.rotate_key("crm")
    digests = {key.digest for key in (await house.rows.load()).keys}
    assert digests == {secret_digest(new), secret_digest(other)}
    assert secret_digest(old) not in digests
