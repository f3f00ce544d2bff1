"""Every fault of the token endpoint, in one table: whether the server acts first, and what the client then gets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from sandbox import spoiled
from sandbox.answers import refusal_answer, server_error
from sandbox.refusals import Refusal, RefusalCode
from sandbox.switches import FaultName, Switches


@dataclass(frozen=True)
class Instead:
    """The server does not act: no code or refresh token is spent, nothing is issued, and this is the answer."""

    meaning: str
    answer: Callable[[Switches], ASGIApp]
    acts: ClassVar[bool] = False

    def deliver(self, _act: Callable[[], Response], switches: Switches) -> ASGIApp:
        """The fault's own answer."""
        return self.answer(switches)


@dataclass(frozen=True)
class Afterwards:
    """The server acts as if nothing were wrong; what becomes of its answer, be it tokens or a refusal, is the fault."""

    meaning: str
    spoil: Callable[[Response, Switches], ASGIApp]
    acts: ClassVar[bool] = True

    def deliver(self, act: Callable[[], Response], switches: Switches) -> ASGIApp:
        """The server's answer, spoiled."""
        return self.spoil(act(), switches)


Fault = Instead | Afterwards


def _throttled(headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"detail": "Request was throttled."}, 429, headers=headers)


def _maintenance() -> Response:
    return HTMLResponse("<!doctype html><title>Maintenance</title><p>We will be back soon.")


def _moved() -> Response:
    # 307 asks for the same POST again, secrets included: a client that follows it shows up twice in the log.
    return Response(status_code=307, headers={"Location": "/api/oauth/token/?moved=1"})


def _untrue(code: RefusalCode) -> Response:
    return refusal_answer(Refusal(code, "Not true: a fault of the sandbox."))


FAULTS: Final[Mapping[FaultName, Fault]] = {
    "none": Afterwards("no fault", lambda answer, _: answer),
    "delay": Afterwards(
        "the answer is held back for delay_seconds", lambda answer, s: spoiled.late(answer, s.delay_seconds)
    ),
    "drip": Afterwards(
        "one byte of the body per delay_seconds", lambda answer, s: spoiled.dripping(answer, s.delay_seconds)
    ),
    "drop_before": Instead("the connection is reset without an answer", lambda _: spoiled.dropped),
    "drop_after": Afterwards("the connection is reset without an answer", lambda *_: spoiled.dropped),
    "rate_limited": Instead("429 without Retry-After", lambda _: _throttled()),
    "rate_limited_retry_after": Instead(
        "429 with Retry-After: retry_after_seconds", lambda s: _throttled({"Retry-After": str(s.retry_after_seconds)})
    ),
    "server_error": Instead("500 with an HTML page", lambda _: server_error()),
    "server_error_after": Afterwards("500 with an HTML page", lambda *_: server_error()),
    "invalid_client": Instead("401 invalid_client, whoever asks", lambda _: _untrue("invalid_client")),
    "invalid_grant": Instead("400 invalid_grant, though the grant lives", lambda _: _untrue("invalid_grant")),
    "refused_without_code": Instead("400 with a plain text", lambda _: PlainTextResponse("Bad Request", 400)),
    "html": Instead("200 with an HTML page", lambda _: _maintenance()),
    "truncated": Afterwards(
        "the true length, half of the body, then the end", lambda answer, _: spoiled.truncated(answer)
    ),
    "unreadable": Afterwards("a complete answer of broken JSON", lambda answer, _: spoiled.unreadable(answer)),
    "empty": Instead("200 with an empty body", lambda _: Response(media_type="application/json")),
    "huge": Instead("200 with 8 MiB of JSON", lambda _: spoiled.padded(mebibytes=8)),
    "redirect": Instead("307 to the token endpoint itself", lambda _: _moved()),
}
