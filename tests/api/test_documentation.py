"""Swagger UI is worth debugging with: calls, parameters and problems are explained, and every example is a real one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from service.api.application import build_api
from service.api.problems import BY_CODE
from service.core.model import Scope
from tests.api.front import Front

DOCUMENT: dict[str, Any] = build_api("all").openapi()
COMPONENTS = DOCUMENT["components"]
OPERATIONS = {
    operation["operationId"]: operation for methods in DOCUMENT["paths"].values() for operation in methods.values()
}
PAGES_ONLY = {"invalid_authorization_request", "authorization_expired", "authorization_denied"}
ANYWHERE = {"method_not_allowed"}
DEMO_KEY = "vtb_demo"


def resolved(found: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in found:
        *_, kind, name = found["$ref"].split("/")
        found = COMPONENTS[kind][name]
    return found


def contents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body, asked or answered, with where it is."""
    for name, operation in OPERATIONS.items():
        bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for place, body in bodies.items():
            for media_type, content in body.get("content", {}).items():
                if "json" in media_type:
                    yield f"{name} {place} {media_type}", content


def examples(content: dict[str, Any]) -> list[Any]:
    named = [resolved(example)["value"] for example in content.get("examples", {}).values()]
    return named or resolved(content["schema"]).get("examples", [])


@pytest.mark.parametrize(
    ("place", "content"), list(contents()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_body_has_an_example_and_every_example_has_its_shape(place: str, content: dict[str, Any]) -> None:
    found = examples(content)
    assert found, place
    validator = Draft202012Validator({**content["schema"], "components": COMPONENTS}, validate_formats=True)
    for example in found:
        validator.validate(example)


def test_every_problem_of_a_call_is_shown_by_an_example_of_its_own() -> None:
    for name, operation in OPERATIONS.items():
        for status, response in operation["responses"].items():
            content = response.get("content", {}).get("application/problem+json")
            if content is None:
                continue
            for code in content["examples"]:
                shown = resolved(content["examples"][code])["value"]
                assert (shown["code"], str(shown["status"])) == (code, status), name
                assert f"`{code}`" in response["description"]
    assert set(COMPONENTS["examples"]) == set(BY_CODE) - PAGES_ONLY - ANYWHERE


def test_every_parameter_and_every_field_that_is_not_plain_is_described() -> None:
    for name, operation in OPERATIONS.items():
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (name, parameter["name"])
    for name, schema in COMPONENTS["schemas"].items():
        assert schema.get("description") or schema.get("enum") or schema.get("examples"), name


def test_no_parameter_is_said_to_take_null_which_no_address_can_hold() -> None:
    for name, operation in OPERATIONS.items():
        for parameter in operation.get("parameters", []):
            assert "null" not in json.dumps(parameter["schema"]), (name, parameter["name"])


def test_a_listing_does_not_promise_a_default_application() -> None:
    said = {parameter["name"]: parameter["description"] for parameter in OPERATIONS["list_grants"]["parameters"]}
    assert said["application"] == "Of this application only"


def test_every_good_answer_says_what_it_is() -> None:
    said = {
        (name, status): response["description"]
        for name, operation in OPERATIONS.items()
        for status, response in operation["responses"].items()
    }
    assert [where for where, text in said.items() if text in {"", "Successful Response"}] == []
    assert said["get_token", "200"] == "A valid access token."
    assert said["remove_key", "204"] == "End one key of a caller"


def test_the_four_steps_of_a_caller_are_at_the_top_and_lead_to_calls_that_exist() -> None:
    named = re.findall(r"`(GET|POST) (/[^`]+)`", DOCUMENT["info"]["description"])
    assert [(method, path) for method, path in named if method.lower() not in DOCUMENT["paths"].get(path, {})] == []
    assert len(named) == 4


def test_examples_of_problems_hold_no_markup() -> None:
    assert [code for code, example in COMPONENTS["examples"].items() if "`" in json.dumps(example)] == []


def test_no_answer_holds_a_shape_without_a_name() -> None:
    """A generated client would have to make one up."""
    for name, schema in COMPONENTS["schemas"].items():
        for field, inside in schema.get("properties", {}).items():
            assert '"items": {"additionalProperties"' not in json.dumps(inside), (name, field)


def test_every_group_of_calls_is_introduced_in_the_order_of_need() -> None:
    introduced = [tag["name"] for tag in DOCUMENT["tags"]]
    assert introduced[:2] == ["tokens", "grants"]
    assert set(introduced) == {tag for operation in OPERATIONS.values() for tag in operation["tags"]}
    assert all(tag["description"] for tag in DOCUMENT["tags"])


def test_headers_that_matter_are_described() -> None:
    answers = OPERATIONS["get_token"]["responses"]
    assert set(answers["200"]["headers"]) == {"Cache-Control", "Cache-Status", "X-Request-ID"}
    assert set(answers["503"]["headers"]) == {"Retry-After"}
    assert set(answers["401"]["headers"]) == {"WWW-Authenticate"}


def test_the_document_tells_nothing_of_where_it_was_made() -> None:
    text = json.dumps(DOCUMENT)
    for told in (str(Path.home()), "localhost", "127.0.0.1"):
        assert told not in text


async def test_the_demo_key_connects_bob_with_what_the_page_offers(front: Front) -> None:
    """The first example is what Swagger UI fills in."""
    demo = await front.admit("demo", Scope.TOKENS, Scope.GRANTS, users=("*", "@company"), key=DEMO_KEY)
    first, *_ = examples(OPERATIONS["invite_user"]["requestBody"]["content"]["application/json"])
    answer = await front.bare("POST", "/grants/bob/connect", demo, json=first)
    assert answer.status_code == 201
    page = await front.bare("GET", answer.json()["connect_url"])
    assert (page.status_code, "bob" in page.text) == (200, True)
