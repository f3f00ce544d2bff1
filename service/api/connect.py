"""The browser's way: ticket page, departure to the provider, return."""

from datetime import timedelta
from urllib.parse import urlencode, urlsplit

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from service.api.deps import House
from service.api.pages import page, problem_page
from service.core.errors import BrokerError, InvalidAuthorizationRequest, StoreUnavailable
from service.core.records import AuthorizationRequest
from service.core.services import Services

RETRY_SECONDS = 2
_BY_A_PERSON = frozenset({"same-origin", "none"})
"""Where browsers say that a request comes from: our own page, or nobody else's."""

router = APIRouter(include_in_schema=False)


@router.get("/connect/done")
async def connect_done() -> Response:
    """Where a trip ends that was given no address to return to."""
    return page("done.html")


@router.get("/connect/{ticket}")
async def show_ticket(request: Request, ticket: str, house: House) -> Response:
    """Says who is about to be connected, and for whom. Changes nothing: mail scanners open links."""
    try:
        trip = await house.authorization.look_up(ticket)
    except BrokerError as error:
        return _problem_page(request, error)
    return page("connect.html", user=trip.grant.user, caller=trip.caller, application=trip.grant.application)


@router.post("/connect/{ticket}")
async def depart(request: Request, ticket: str, house: House) -> Response:
    """Send the browser to the provider, bound by a cookie; only from the page that says who will be connected.

    Else a foreign page could press the button for somebody who is logged in at the provider and suspects nothing.
    """
    name, secure = _cookie(house)
    try:
        if request.headers.get("sec-fetch-site", "none") not in _BY_A_PERSON:
            raise InvalidAuthorizationRequest("Another page tried to start this login. Open your link itself.")
        departure = await house.authorization.depart(ticket, request.cookies.get(name))
    except BrokerError as error:
        return _problem_page(request, error)
    response = _see_other(departure.authorize_url)
    seconds = departure.bound_for // timedelta(seconds=1)
    response.set_cookie(name, departure.cookie, max_age=seconds, path="/", secure=secure, httponly=True, samesite="lax")
    return response


@router.get("/oauth/callback")
async def arrive(request: Request, house: House) -> Response:
    """Complete the trip; RFC 6749 section 4.1.2. While the database is away the page tries again by itself."""
    query, (cookie, _) = request.query_params, _cookie(house)
    try:
        arrival = await house.authorization.arrive(
            state=query.get("state"),
            code=query.get("code"),
            error=query.get("error"),
            cookie=request.cookies.get(cookie),
        )
    except StoreUnavailable as error:
        return problem_page(error, request.state.request_id, retry_seconds=RETRY_SECONDS)
    except BrokerError as error:
        return _problem_page(request, error)
    if arrival.failure is None:
        return _see_other(
            _return_address(arrival.request, {"status": "connected"})
            or f"{urlsplit(house.public_url).path}/connect/done"
        )
    failed = {"status": "failed", "code": arrival.failure.code}
    address = _return_address(arrival.request, failed)
    return _see_other(address) if address else _problem_page(request, arrival.failure)


def _cookie(house: Services) -> tuple[str, bool]:
    """The cookie's name and whether it is Secure: Chromium drops `__Host-` on plain http, even on loopback."""
    secure = house.public_url.startswith("https://")
    return ("__Host-tb-connect", True) if secure else ("tb-connect", False)


def _return_address(trip: AuthorizationRequest, outcome: dict[str, str]) -> str | None:
    if trip.return_to is None:
        return None
    parts = urlsplit(trip.return_to)
    query = f"{parts.query}&{urlencode(outcome)}" if parts.query else urlencode(outcome)
    return parts._replace(query=query).geturl()


def _see_other(address: str) -> Response:
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return RedirectResponse(address, 303, headers)


def _problem_page(request: Request, error: BrokerError) -> Response:
    return problem_page(error, request.state.request_id)
