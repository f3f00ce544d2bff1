"""Who may do what: every call of the document against every kind of asker, from one small table."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from service.core.model import GrantType, Scope
from tests.api.front import Front, Headers, bearer

DOCUMENT = json.loads((Path(__file__).parents[2] / "openapi.json").read_text())
CALLS = [f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods]
EVERYBODY = ("*", "@company")

About = Literal["user", "person", "application", "nobody"]


@dataclass(frozen=True)
class Rule:
    """The scope that a call needs, what it answers then, and what the patterns of the asker must cover.

    A `person` is a user who is not `@company`. `scope` "any" wants a key and no scope, "none" not even a key.
    """

    scope: Scope | Literal["any", "none"]
    good: int
    about: About = "nobody"
    body: dict[str, Any] | None = None
    query: str = ""


APPLICATION = {"client_id": "i", "client_secret": "s", "grant_types": ["authorization_code"]}
TABLE = {
    "GET /tokens/{user}": Rule(Scope.TOKENS, 200, "user"),
    "POST /tokens/{user}/rejected": Rule(Scope.TOKENS, 200, "user", {"access_token": "an-older-one"}),
    "POST /grants/{user}/connect": Rule(Scope.GRANTS, 201, "person"),
    "GET /grants": Rule(Scope.GRANTS, 200, "application", query="application=default"),
    "GET /grants/{user}": Rule(Scope.GRANTS, 200, "user"),
    "PUT /grants/{user}": Rule(Scope.GRANTS, 200, "person", {"refresh_token": "from-elsewhere"}),
    "DELETE /grants/{user}": Rule(Scope.GRANTS, 200, "user"),
    "GET /me": Rule("any", 200),
    "GET /applications": Rule(Scope.ADMIN, 200),
    "POST /applications": Rule(Scope.ADMIN, 201, body={"name": "new-{name}", **APPLICATION}),
    "GET /applications/{name}": Rule(Scope.ADMIN, 200),
    "PATCH /applications/{name}": Rule(Scope.ADMIN, 200, body={"client_secret": "new"}),
    "DELETE /applications/{name}": Rule(Scope.ADMIN, 204),
    "PUT /applications/{name}/default": Rule(Scope.ADMIN, 200, body={"grant_types": ["authorization_code"]}),
    "GET /callers": Rule(Scope.ADMIN, 200),
    "POST /callers": Rule(Scope.ADMIN, 201, body={"name": "new-{name}", "scopes": ["tokens"], "users": ["*"]}),
    "GET /callers/{name}": Rule(Scope.ADMIN, 200),
    "PATCH /callers/{name}": Rule(Scope.ADMIN, 200, body={"users": ["a*"]}),
    "DELETE /callers/{name}": Rule(Scope.ADMIN, 204),
    "GET /callers/{name}/keys": Rule(Scope.ADMIN, 200),
    "POST /callers/{name}/keys": Rule(Scope.ADMIN, 201),
    "DELETE /callers/{name}/keys/{key_id}": Rule(Scope.ADMIN, 204),
    "GET /audit": Rule(Scope.ADMIN, 200),
    "GET /healthz": Rule("none", 200),
    "GET /readyz": Rule("none", 200),
    "GET /metrics": Rule("none", 200),
}


def test_every_call_of_the_document_has_its_rule() -> None:
    assert sorted(TABLE) == sorted(CALLS)


def scopes_for(rule: Rule) -> tuple[Scope, ...]:
    return (rule.scope,) if isinstance(rule.scope, Scope) else (Scope.TOKENS,)


async def no_key(_front: Front, _rule: Rule) -> Headers:
    return {}


async def wrong_key(_front: Front, _rule: Rule) -> Headers:
    return bearer("vtb_wrong")


async def expired_key(front: Front, rule: Rule) -> Headers:
    expires_at = front.clock.now() + timedelta(seconds=1)
    headers = await front.admit("expired", *scopes_for(rule), users=EVERYBODY, expires_at=expires_at)
    assert (await front.bare("GET", "/me", headers)).status_code == 200
    front.clock.advance(1)
    return headers


async def removed_caller(front: Front, rule: Rule) -> Headers:
    headers = await front.admit("removed", *scopes_for(rule), users=EVERYBODY)
    assert (await front.bare("GET", "/me", headers)).status_code == 200
    await front.container.services.administration.remove_caller("removed")
    return headers


async def removed_key(front: Front, rule: Rule) -> Headers:
    headers = await front.admit("changed", *scopes_for(rule), users=EVERYBODY)
    assert (await front.bare("GET", "/me", headers)).status_code == 200
    await front.container.services.administration.remove_key("changed", "first")
    return headers


def only(scope: Scope) -> Callable[[Front, Rule], Awaitable[Headers]]:
    async def admit(front: Front, _rule: Rule) -> Headers:
        return await front.admit(f"only-{scope}", scope, users=EVERYBODY)

    return admit


async def for_another_user(front: Front, rule: Rule) -> Headers:
    return await front.admit("another-user", *scopes_for(rule), users=("bob", "@company"))


async def star_for_the_company(front: Front, rule: Rule) -> Headers:
    return await front.admit("star", *scopes_for(rule), users=("*",))


async def for_another_application(front: Front, rule: Rule) -> Headers:
    return await front.admit("another-application", *scopes_for(rule), users=EVERYBODY, applications=("elsewhere",))


ASKERS: dict[str, Callable[[Front, Rule], Awaitable[Headers]]] = {
    "no key": no_key,
    "wrong key": wrong_key,
    "expired key": expired_key,
    "removed caller": removed_caller,
    "removed key": removed_key,
    **{f"only {scope}": only(scope) for scope in Scope},
    "another user": for_another_user,
    "star for the company": star_for_the_company,
    "another application": for_another_application,
}
KEYLESS = {"no key", "wrong key", "expired key", "removed caller", "removed key"}
REFUSED: dict[str, dict[About, int]] = {
    "another user": {"user": 403, "person": 403},
    "star for the company": {"user": 403, "person": 422},
    "another application": {"user": 403, "person": 403, "application": 403},
}


def expected(rule: Rule, asker: str) -> int:
    if rule.scope == "none":
        return rule.good
    if asker in KEYLESS:
        return 401
    if asker.startswith("only "):
        return rule.good if rule.scope in {"any", asker.removeprefix("only ")} else 403
    return REFUSED[asker].get(rule.about, rule.good)


async def prepared(front: Front, call: str, number: int, asker: str) -> str:
    """Everything that *call* needs to succeed, made anew for the asker of that *number*; returns the path."""
    name, user = f"target-{number}", f"alice-{number}"
    if "{user}" in call:
        if asker == "star for the company":
            user = "@company"
        else:
            await front.hold(user)
    if call.split()[1].startswith("/applications/{name}"):
        await front.container.services.administration.add_application(front.registration(name, *GrantType))
    if call.split()[1].startswith("/callers/{name}"):
        await front.admit(name, Scope.TOKENS)
    return call.split()[1].format(user=user, name=name, key_id="first")


@pytest.mark.parametrize("call", TABLE)
async def test_a_call_is_answered_to_whom_it_is_meant_for_and_to_nobody_else(front: Front, call: str) -> None:
    rule = TABLE[call]
    found = {}
    for number, (asker, headers_of) in enumerate(ASKERS.items()):
        headers = await headers_of(front, rule)
        path = await prepared(front, call, number, asker)
        content: dict[str, Any] = {}
        if rule.body is not None:
            content["json"] = json.loads(json.dumps(rule.body).replace("{name}", f"target-{number}"))
        answer = await front.bare(call.split(maxsplit=1)[0], f"{path}?{rule.query}".rstrip("?"), headers, **content)
        found[asker] = answer.status_code
    assert found == {asker: expected(rule, asker) for asker in ASKERS}
