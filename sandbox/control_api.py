"""/sandbox/: what only a test or a demonstrator does, and no provider offers."""

from collections.abc import Mapping
from typing import Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.answers import token_fields
from sandbox.calls import FILTERS, outcomes
from sandbox.directory import CLIENTS, USER_CLIENT
from sandbox.provider import Provider
from sandbox.switches import SwitchError, UserName

Wanted = TypeVar("Wanted", bound=BaseModel)
_ANY_OBJECT: Final = TypeAdapter(dict[str, object])


class BadOrder(Exception):
    """A control call that makes no sense; `complaints` says why, by field."""

    def __init__(self, complaints: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {why}" for field, why in complaints.items()))
        self.complaints = dict(complaints)


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class GrantOrder(_Order):
    """For whom a family of tokens is wanted without a login: one user, or many."""

    user: UserName | None = None
    users: list[UserName] | None = None
    client_id: str = USER_CLIENT.id

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if (self.user is None) == (self.users is None):
            raise ValueError("give either user or users")
        if self.client_id not in CLIENTS:
            raise ValueError("there is no such client")
        return self


class UserOrder(_Order):
    """Whose tokens are to end."""

    user: UserName


class ClockOrder(_Order):
    """How much time is to pass."""

    advance_seconds: float = Field(ge=0)


class ControlApi:
    """Turns switches, reads the log, mints and ends grants, moves the clock; 422 with reasons for bad orders."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def routes(self) -> list[Route]:
        """All control calls."""
        return [
            Route("/sandbox/switches", self.show_switches, methods=["GET"]),
            Route("/sandbox/switches", self.change_switches, methods=["PATCH"]),
            Route("/sandbox/calls", self.show_calls, methods=["GET"]),
            Route("/sandbox/calls", self.forget_calls, methods=["DELETE"]),
            Route("/sandbox/grants", self.mint, methods=["POST"]),
            Route("/sandbox/revoke_user", self.revoke_user, methods=["POST"]),
            Route("/sandbox/clock", self.advance_clock, methods=["POST"]),
        ]

    async def show_switches(self, _request: Request) -> Response:
        """All switches as they stand."""
        return JSONResponse(self._provider.switches.model_dump(mode="json"))

    async def change_switches(self, request: Request) -> Response:
        """Turn the named switches; all or none."""
        try:
            changes = _ANY_OBJECT.validate_json(await request.body())
            switches = self._provider.switchboard.change(changes)
        except SwitchError as error:
            raise BadOrder(error.complaints) from None
        except ValidationError:
            raise BadOrder({"body": "is not a JSON object"}) from None
        return JSONResponse(switches.model_dump(mode="json"))

    async def show_calls(self, request: Request) -> Response:
        """The noted calls that match every given filter, with their number in all and by outcome."""
        unknown = {name: "there is no such filter" for name in request.query_params if name not in FILTERS}
        if unknown:
            raise BadOrder(unknown)
        items = self._provider.calls.matching(dict(request.query_params))
        return JSONResponse({"count": len(items), "outcomes": outcomes(items), "items": items})

    async def forget_calls(self, _request: Request) -> Response:
        """Empty the log."""
        self._provider.calls.clear()
        return Response(status_code=204)

    async def mint(self, request: Request) -> Response:
        """Grants without a login, for any users: a token answer each, which leaves nothing out."""
        order = await _ordered(request, GrantOrder)
        if order.user is not None:
            return JSONResponse(self._minted(order.user, order.client_id), 201)
        return JSONResponse({"items": [self._minted(user, order.client_id) for user in order.users or ()]}, 201)

    async def revoke_user(self, request: Request) -> Response:
        """End all tokens of a user, as if it was done in the provider's portal."""
        order = await _ordered(request, UserOrder)
        return JSONResponse({"ended": self._provider.server.revoke_user(order.user)})

    async def advance_clock(self, request: Request) -> Response:
        """Let time pass at once."""
        order = await _ordered(request, ClockOrder)
        self._provider.clock.advance(order.advance_seconds)
        return JSONResponse({"now": self._provider.clock()})

    def _minted(self, user: str, client_id: str) -> dict[str, object]:
        complete = self._provider.switches.changed({"omit": ()})
        issue = self._provider.server.issue_to_user(user, client_id=client_id, switches=complete)
        return {"user": user, "client_id": client_id, **token_fields(issue, complete)}


async def _ordered(request: Request, order: type[Wanted]) -> Wanted:
    try:
        return order.model_validate_json(await request.body())
    except ValidationError as error:
        raise BadOrder({_place(e["loc"]): e["msg"] for e in error.errors()}) from None


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(step) for step in location) or "body"


async def unprocessable(_request: Request, bad: Exception) -> Response:
    """The answer to a BadOrder."""
    return JSONResponse({"errors": bad.complaints if isinstance(bad, BadOrder) else {}}, 422)
