"""What routes ask for before they begin: who calls, about what, and with which body, judged in that order."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from service.core.audit import Actor, acting
from service.core.directory import Identity, may_ask_for, require_scope
from service.core.errors import (
    ApplicationNotFound,
    InvalidApiKey,
    InvalidRequest,
    NotAllowed,
    PayloadTooLarge,
    UnsupportedMediaType,
)
from service.core.model import COMPANY, Application, GrantId, Scope, needed_grant_type
from service.core.names import MAX_USER_LENGTH, NAME_FORM, PERSON_FORM, USER_FORM, check_name, check_user
from service.core.sealing.digests import secret_digest
from service.core.services import Services

MAX_BODY_BYTES = 64 * 1024
DEMO_KEY = "vtb_demo"
DEMO_DIGEST = secret_digest(DEMO_KEY)
"""Where a request comes from is judged for this key alone, so it never gets a pass for the lane."""

_LOOPBACK = frozenset({"127.0.0.1", "::1"})
_PASSED_ON = frozenset({"x-forwarded-for", "forwarded"})
MOST_COMPLAINTS, LONGEST_FIELD = 20, 100

M = TypeVar("M", bound=BaseModel)

bearer = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="Your service's key: `vtb_…`")


class WrongFields(InvalidRequest):
    """A malformed request, with what is wrong field by field; never with the values."""

    def __init__(self, fields: list[dict[str, str]]) -> None:
        super().__init__("The request does not have the documented form.")
        self.fields = fields


async def services(request: Request) -> Services:
    """Async, though it waits for nothing: FastAPI takes any other function to a thread, which costs more than a hit."""
    found: Services = request.state.services
    return found


async def identify(
    request: Request,
    house: Annotated[Services, Depends(services)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Identity:
    """The caller, by its key (401), if it does not ask too often (429). Every call that wants a key passes here."""
    if credentials is None or not credentials.credentials:
        raise InvalidApiKey("Send an API key as Authorization: Bearer vtb_….")
    if len(request.headers.getlist("authorization")) > 1:
        raise InvalidApiKey("Send one Authorization header; of two nobody knows which one counts.")
    if credentials.credentials == DEMO_KEY and not _is_made_here(request):
        raise InvalidApiKey("The demo key works on loopback only.")
    identity = await house.directory.identify(credentials.credentials)
    request.state.caller = identity.caller.name
    acting.set(Actor(identity.caller.name, request.state.request_id))
    house.limiter.admit(identity.caller.name)
    return identity


def _is_made_here(request: Request) -> bool:
    """Whether nobody but this machine asks; a proxy on this machine says that it asks for others."""
    host = request.client.host if request.client else None
    return host in _LOOPBACK and _PASSED_ON.isdisjoint(request.headers.keys())


House = Annotated[Services, Depends(services)]
Whoever = Annotated[Identity, Depends(identify)]
_USER: dict[str, Any] = {"min_length": 1, "max_length": MAX_USER_LENGTH, "examples": ["alice"]}
User = Annotated[
    str,
    Path(
        description="An opaque, case-sensitive name, or `@company` for the application itself",
        json_schema_extra={"pattern": USER_FORM},
        **_USER,
    ),
]
Person = Annotated[
    str, Path(description="An opaque, case-sensitive name", json_schema_extra={"pattern": PERSON_FORM}, **_USER)
]


ApplicationName = Annotated[str, Field(json_schema_extra={"pattern": NAME_FORM})]


class ApplicationQuery(BaseModel):
    """Which application; parameters that nobody documented are refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    application: Annotated[
        ApplicationName | None, Field(description="The application's name; omitted, the default one serves")
    ] = None


@dataclass(frozen=True, slots=True)
class Target:
    """What a permitted request is about; the application is looked up last, because 404 comes after 403 and 422.

    `application_name` is the one asked for, else the default one's; None when there is none.
    """

    identity: Identity
    user: str
    application_name: str | None
    house: Services

    def application(self) -> Application:
        """The application that serves this request.

        Raises:
            ApplicationNotFound: there is none.
        """
        if self.application_name is None:
            raise ApplicationNotFound("No application allows the grant type that this user needs.")
        return self.house.directory.application_for(self.application_name, needed_grant_type(self.user))

    def grant(self, application: Application) -> GrantId:
        return GrantId(application.name, self.user)


def judged(house: Services, identity: Identity, scope: Scope, user: str, application_name: str | None) -> Target:
    """A target whose form is right (422) and which the caller may ask for (403), the default application too."""
    check_user(user)
    if application_name is not None:
        check_name(application_name)
    require_scope(identity.caller, scope)
    application_name = application_name or house.directory.default_name(needed_grant_type(user))
    if not may_ask_for(identity.caller, user, application_name):
        raise NotAllowed("This key may not ask for that user or application.")
    return Target(identity, user, application_name, house)


async def token_target(
    house: House, identity: Whoever, user: User, query: Annotated[ApplicationQuery, Query()]
) -> Target:
    return judged(house, identity, Scope.TOKENS, user, query.application)


async def grant_target(
    house: House, identity: Whoever, user: User, query: Annotated[ApplicationQuery, Query()]
) -> Target:
    return judged(house, identity, Scope.GRANTS, user, query.application)


async def person_target(
    house: House, identity: Whoever, user: Person, query: Annotated[ApplicationQuery, Query()]
) -> Target:
    """The target of what only somebody with a browser or a refresh token can be asked for."""
    if user == COMPANY:
        raise InvalidRequest(f"{COMPANY} has no login and no refresh token.")
    return judged(house, identity, Scope.GRANTS, user, query.application)


def body(
    model: type[M], permission: Callable[..., Awaitable[object]], *, optional: bool = False
) -> Callable[..., Awaitable[M]]:
    """The dependency that reads a JSON body, after *permission* has been given.

    FastAPI would read and judge a body before anything else, and tell strangers about its form.
    """

    async def read(request: Request, _permitted: Annotated[object, Depends(permission)]) -> M:
        content = await _read_body(request)
        if not content and optional:
            return model()
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaType("Send the body as application/json.")
        try:
            return model.model_validate_json(content)
        except ValidationError as wrong:
            raise WrongFields(field_errors(wrong.errors(include_input=False, include_url=False))) from None

    return read


def body_schema(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """The part of the OpenAPI document that says what `body` reads."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    return {"requestBody": {"required": required, "content": content}}


def field_errors(errors: Any) -> list[dict[str, str]]:
    """The first of pydantic's complaints as place and message, without the values."""
    return [
        {
            "field": ".".join(str(part) for part in error["loc"])[:LONGEST_FIELD],
            "message": error["msg"].removeprefix("Value error, "),
        }
        for error in errors[:MOST_COMPLAINTS]
    ]


async def _read_body(request: Request) -> bytes:
    """The body, which is not read any further once it or its announced length is too large."""
    announced, content = request.headers.get("content-length", ""), b""
    if announced.isdecimal() and int(announced[:20]) > MAX_BODY_BYTES:
        raise PayloadTooLarge(f"A body has at most {MAX_BODY_BYTES} bytes.")
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > MAX_BODY_BYTES:
                raise PayloadTooLarge(f"A body has at most {MAX_BODY_BYTES} bytes.")
    except ClientDisconnect:
        raise InvalidRequest("The body broke off.") from None
    return content
