"""The OpenAPI document: what the framework finds, and what it cannot know of problems, headers and bodies."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from service.api import admin_schemas
from service.api.problems import BY_CODE, CHALLENGE, MEDIA_TYPE, problem_example
from service.api.schemas import ConnectInvitation, GrantImport, ProblemBody, RejectedToken

TAGS = [
    {
        "name": "tokens",
        "description": "What services need: a token that works now, and another when it does not.",
    },
    {"name": "grants", "description": "Users: connect them, look at where they stand, take them over, let them go."},
    {
        "name": "callers",
        "description": "Internal services, what each may do, and their keys. `GET /me` is for everybody, the rest for "
        "operators.",
    },
    {"name": "applications", "description": "Registrations at Versature and their secrets. For operators."},
    {"name": "audit", "description": "Who got whose token, and who decided what. For operators."},
    {"name": "operations", "description": "Whether the broker is well. Without a key."},
]
_EVERYWHERE = (
    "invalid_api_key",
    "not_allowed",
    "invalid_request",
    "rate_limited",
    "overloaded",
    "store_unavailable",
    "internal_error",
)
_RENEWING = (
    "application_not_found",
    "grant_not_found",
    "reauthorization_required",
    "client_rejected",
    "invalid_upstream_answer",
    "upstream_unavailable",
    "renewal_in_progress",
    "key_unavailable",
)
_HEADERS = {
    "401": {"WWW-Authenticate": f"Always {CHALLENGE}"},
    "429": {"Retry-After": "Seconds after which to try again"},
    "503": {"Retry-After": "Seconds after which to try again"},
}
_OF_TOKENS = {
    "Cache-Control": "Always no-store: a token is for you alone",
    "Cache-Status": "Where the token came from (RFC 9211): token-broker; hit; ttl=3512; detail=local",
}
_CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "invite_user": {
        "Show a page when it is done": {},
        "Send the browser back to your service": {"return_to": "https://crm.example/settings"},
    },
    "import_grant": {
        "A refresh token alone": {"refresh_token": "the-refresh-token-of-alice"},
        "With the access token that belongs to it": {
            "refresh_token": "the-refresh-token-of-alice",
            "access_token": "the-access-token-of-alice",
            "expires_in": 1800,
            "scope": "Office Manager",
        },
    },
}
_WITH_BODY = ("unsupported_media_type", "payload_too_large")
_PROBLEMS_OF: dict[str, tuple[str, ...]] = {
    "get_token": _RENEWING,
    "report_rejected_token": (*_RENEWING, *_WITH_BODY, "rejected_too_often"),
    "get_me": (),
    "list_grants": (),
    "get_grant": ("application_not_found", "grant_not_found"),
    "invite_user": ("application_not_found", *_WITH_BODY),
    "import_grant": ("application_not_found", *_WITH_BODY),
    "revoke_grant": ("application_not_found", "grant_not_found"),
    "list_applications": (),
    "add_application": ("conflict", *_WITH_BODY),
    "get_application": ("application_not_found",),
    "change_application": ("application_not_found", "conflict", *_WITH_BODY),
    "remove_application": ("application_not_found", "conflict"),
    "set_default_application": ("application_not_found", "conflict", *_WITH_BODY),
    "list_callers": (),
    "list_audit": (),
    "add_caller": ("conflict", *_WITH_BODY),
    "get_caller": ("not_found",),
    "change_caller": ("not_found", *_WITH_BODY),
    "remove_caller": ("not_found",),
    "list_keys": ("not_found",),
    "add_key": ("not_found", "conflict", *_WITH_BODY),
    "remove_key": ("not_found",),
}

_MODELS: tuple[type[BaseModel], ...] = (
    ConnectInvitation,
    GrantImport,
    RejectedToken,
    admin_schemas.NewApplication,
    admin_schemas.ApplicationChanges,
    admin_schemas.DefaultChoice,
    admin_schemas.NewCaller,
    admin_schemas.CallerChanges,
    admin_schemas.NewKey,
    ProblemBody,
)
"""What `deps.body` reads and what problems look like; the framework sees neither."""


def document(app: FastAPI) -> dict[str, Any]:
    """The document, with each call's problems and the bodies that `deps.body` reads."""
    if app.openapi_schema:
        return app.openapi_schema
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for model in _MODELS:
        schemas[model.__name__] = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schemas[model.__name__].pop("$defs", {}))
    _restore_nulls(schemas)
    for path in found["paths"].values():
        for operation in path.values():
            _plain_parameters(operation)
            _describe_success(operation, schemas)
            _document_problems(operation)
            _document_headers(operation)
            _document_choices(operation)
    used = {code for codes in _PROBLEMS_OF.values() for code in (*_EVERYWHERE, *codes)}
    found["components"]["examples"] = {
        code: {"summary": BY_CODE[code].title, "value": problem_example(code)} for code in sorted(used)
    }
    app.openapi_schema = found
    return found


def _restore_nulls(schemas: dict[str, Any]) -> None:
    """Show the examples as they are: the framework leaves out what is null in them."""
    for shape in _heirs(BaseModel):
        shown = shape.model_config.get("json_schema_extra")
        if shape.__module__.startswith("service.api.") and shape.__name__ in schemas and isinstance(shown, dict):
            schemas[shape.__name__].update(shown)


def _plain_parameters(operation: dict[str, Any]) -> None:
    """A parameter may be left out, but nobody can send null in an address: the framework says both alike."""
    for parameter in operation.get("parameters", []):
        schema = parameter["schema"]
        kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
        if len(kinds) == 1:
            del schema["anyOf"]
            parameter["schema"] = {**kinds[0], **schema}


def _describe_success(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """A good answer is described by what it holds; the framework calls them all a successful response."""
    for response in operation["responses"].values():
        if response["description"] == "Successful Response":
            shape = response.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
            said = schemas.get(shape.rpartition("/")[2], {}).get("description")
            response["description"] = said or operation["summary"]


def _heirs(shape: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for heir in shape.__subclasses__():
        yield heir
        yield from _heirs(heir)


def _document_problems(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    specific = _PROBLEMS_OF.get(operation["operationId"])
    codes = () if specific is None else (*_EVERYWHERE, *specific)
    for code in sorted(codes, key=lambda code: (BY_CODE[code].status, code)):
        problem = BY_CODE[code]
        response = responses.setdefault(str(problem.status), {"description": "", "content": {}})
        response["description"] = f"{response['description']} · `{code}`: {problem.title}".removeprefix(" · ")
        content = response["content"].setdefault(
            MEDIA_TYPE, {"schema": {"$ref": "#/components/schemas/ProblemBody"}, "examples": {}}
        )
        content["examples"][code] = {"$ref": f"#/components/examples/{code}"}


def _document_headers(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        if (headers := _HEADERS.get(status)) is not None:
            response["headers"] = {name: _header(what) for name, what in headers.items()}
    if operation["operationId"] in _PROBLEMS_OF:
        good = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
        good["headers"] = {name: _header(what) for name, what in _OF_TOKENS.items()} if _hands_out(operation) else {}
        good["headers"]["X-Request-ID"] = _header("Yours, or a new one; the log has it in every line of the request")


def _hands_out(operation: dict[str, Any]) -> bool:
    return operation["operationId"] in {"get_token", "report_rejected_token"}


def _header(what: str) -> dict[str, Any]:
    return {"description": what, "schema": {"type": "string"}}


def _document_choices(operation: dict[str, Any]) -> None:
    """More than one way to fill a body; the first is what Swagger UI offers."""
    if (choices := _CHOICES.get(operation["operationId"])) is not None:
        (content,) = operation["requestBody"]["content"].values()
        content["examples"] = {name: {"summary": name, "value": value} for name, value in choices.items()}
