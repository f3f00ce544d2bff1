"""Problems (RFC 9457): one row per code, and how an error becomes an answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from starlette.responses import JSONResponse, Response

from service.core import errors
from service.core.model import GrantId, Reason

MEDIA_TYPE = "application/problem+json"
CHALLENGE = 'Bearer realm="token-broker"'
_TEMPORARY = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Problem:
    """What a code means: its HTTP status, its title, and a paragraph for its page."""

    status: int
    title: str
    explanation: str


PROBLEMS: Mapping[type[errors.BrokerError], Problem] = {
    errors.InvalidApiKey: Problem(
        401,
        "The API key is missing or not valid",
        "Send your service's key as `Authorization: Bearer vtb_…`. Keys are made by the operator of this broker; an "
        "expired or removed key answers the same as one that never existed.",
    ),
    errors.NotAllowed: Problem(
        403,
        "Your key may not do this",
        "The key is good, but it lacks the scope, or its patterns do not cover this user or application. "
        "GET /me shows what it may do.",
    ),
    errors.InvalidRequest: Problem(
        422,
        "The request is malformed",
        "A user, query parameter or body field does not have the form that the documentation asks for. Nothing was "
        "changed.",
    ),
    errors.UnsupportedMediaType: Problem(
        415, "The body must be JSON", "Send the body as JSON with `Content-Type: application/json`."
    ),
    errors.PayloadTooLarge: Problem(413, "The body is too large", "No request needs a body of more than 64 KiB."),
    errors.ResourceNotFound: Problem(404, "There is nothing here", "Check the address against /docs."),
    errors.MethodNotAllowed: Problem(
        405, "This method is not allowed here", "The `Allow` header lists the methods that are."
    ),
    errors.ApplicationNotFound: Problem(
        404,
        "There is no such application",
        "No application of this name exists or allows the grant type that this user needs. The operator adds "
        "applications; without `application` the default one for the grant type serves.",
    ),
    errors.GrantNotFound: Problem(
        404,
        "This user is not connected",
        "Nobody ever connected this user to this application. The member `connect` says how to get a link for the "
        "user's browser.",
    ),
    errors.ReauthorizationRequired: Problem(
        409,
        "The user must connect again",
        "No renewal can help any more; the member `reason` says why, and `connect` how to get a new link for the "
        "user's browser.",
    ),
    errors.Conflict: Problem(
        409,
        "This conflicts with what is stored",
        "The name is taken or belongs to the settings, the caller has two working keys already, or the application "
        "does not allow the grant type. The member `detail` says which; nothing was changed.",
    ),
    errors.RejectedTooOften: Problem(
        429,
        "This grant was renewed upon a rejection just now",
        "A fresh token that is rejected at once is not mended by another one. Check what the provider says, and try "
        "again after `Retry-After`.",
    ),
    errors.RateLimited: Problem(
        429,
        "Your service asks too often",
        "Each caller has a number of requests per second, whatever it asks for and with whichever of its keys. Keep "
        "a token until its `expires_at` instead of asking each time, and try again after `Retry-After`.",
    ),
    errors.InvalidAuthorizationRequest: Problem(
        400,
        "This login cannot be completed",
        "The link or the login was used before, was never started here, or was started in another browser. Open the "
        "link that you were given once more, or ask for a new one.",
    ),
    errors.AuthorizationExpired: Problem(
        410,
        "This link is no longer valid",
        "It was used already, or too much time has passed. Ask for a new link where you got this one.",
    ),
    errors.AuthorizationDenied: Problem(
        403,
        "Access was not granted",
        "The login was cancelled. Nothing was changed; you can open your link again and allow the access.",
    ),
    errors.ClientRejected: Problem(
        502,
        "The provider rejects the application",
        "The application's client id or secret is not accepted, or no longer the one that this grant was issued to. "
        "The operator has to mend its settings; no user needs to connect again for that.",
    ),
    errors.InvalidUpstreamAnswer: Problem(
        502,
        "The provider's answer makes no sense",
        "It was not readable, or a refusal without a reason. The grant stays as it was and is tried again later.",
    ),
    errors.UpstreamUnavailable: Problem(
        503,
        "The provider is not available",
        "It could not be reached, did not answer, or wants to be left alone for a while. Try again after "
        "`Retry-After`.",
    ),
    errors.RenewalInProgress: Problem(
        503, "A renewal is under way", "It takes longer than you may be kept waiting. Try again after `Retry-After`."
    ),
    errors.StoreUnavailable: Problem(
        503,
        "The database is not available",
        "What is cached still works; this request needed the database. Try again after `Retry-After`.",
    ),
    errors.KeyUnavailable: Problem(
        503,
        "A sealing key is missing",
        "A stored secret is sealed with a key that this broker was not given. The operator has to put it back into "
        "BROKER_ENCRYPTION_KEYS; no user needs to connect again for that.",
    ),
    errors.Overloaded: Problem(
        503,
        "This process is at its limit",
        "It has as many requests under way as it takes and did not look at this one. Try again after `Retry-After`; "
        "another replica may have room at once.",
    ),
    errors.InternalError: Problem(
        500, "Something went wrong here", "This is a mistake of the broker. Its log has more under the request id."
    ),
}

BY_CODE: Mapping[str, Problem] = {error.code: problem for error, problem in PROBLEMS.items()}


_TO_CONNECT = {"connect": {"method": "POST", "href": "/grants/alice/connect?application=default"}}
_EXAMPLES: Mapping[str, Mapping[str, object]] = {
    errors.GrantNotFound.code: _TO_CONNECT,
    errors.ReauthorizationRequired.code: {"reason": Reason.REFRESH_TOKEN_EXPIRED, **_TO_CONNECT},
    errors.InvalidRequest.code: {
        "errors": [{"field": "query.min_ttl", "message": "must be a whole number of seconds"}]
    },
}
"""Members of single problems, as an example shows them."""


def problem_of(error: errors.BrokerError) -> Problem:
    """The row of *error*."""
    return BY_CODE[error.code]


def problem_headers(error: errors.BrokerError) -> dict[str, str]:
    """The headers that go with *error*, whatever its body looks like."""
    headers = {"Cache-Control": "no-store"}
    soonest = 1 if problem_of(error).status in _TEMPORARY else None
    if (seconds := error.retry_after_seconds or soonest) is not None:
        headers["Retry-After"] = str(seconds)
    if isinstance(error, errors.InvalidApiKey):
        headers["WWW-Authenticate"] = CHALLENGE
    return headers


def problem_response(error: errors.BrokerError, request_id: str, extra: Mapping[str, object] | None = None) -> Response:
    """*error* as `application/problem+json`."""
    problem = problem_of(error)
    body: dict[str, object] = {
        "type": f"/problems/{error.code}",
        "title": problem.title,
        "status": problem.status,
        "code": error.code,
        "detail": error.detail,
        "request_id": request_id,
        **_members(error),
        **(extra or {}),
    }
    return JSONResponse(body, problem.status, problem_headers(error), MEDIA_TYPE)


def problem_example(code: str) -> dict[str, object]:
    """What a problem of *code* looks like."""
    problem = BY_CODE[code]
    return {
        "type": f"/problems/{code}",
        "title": problem.title,
        "status": problem.status,
        "code": code,
        "detail": problem.explanation.replace("`", ""),
        "request_id": "0f4b2a6c9d8e47718f0a3c5b6d7e8f90",
        **_EXAMPLES.get(code, {}),
    }


def _members(error: errors.BrokerError) -> dict[str, object]:
    match error:
        case errors.ReauthorizationRequired():
            return {"reason": error.reason, **_connect(error.grant)}
        case errors.GrantNotFound():
            return _connect(error.grant)
        case _:
            return {}


def _connect(grant: GrantId) -> dict[str, object]:
    """How to get a link for the user's browser; the company has no browser."""
    if grant.is_company:
        return {}
    user, application = quote(grant.user, safe=""), quote(grant.application, safe="")
    return {"connect": {"method": "POST", "href": f"/grants/{user}/connect?application={application}"}}
