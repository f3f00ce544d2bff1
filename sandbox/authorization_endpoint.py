"""GET and POST /api/oauth/authorize/: the login page and what becomes of it."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from sandbox.authorization_request import AuthorizationRequest, BadAuthorizationRequest
from sandbox.calls import Call
from sandbox.directory import knows
from sandbox.forms import read_form
from sandbox.pages import error_page, login_page
from sandbox.provider import Provider
from sandbox.refusals import Refusal


class AuthorizationEndpoint:
    """Shows the login page, and sends the browser back with a code or a refusal; notes every visit.

    The form carries the parameters of the request along. A script may as well post only `username`, `password` and
    `decision` to the URL that a browser would open.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def routes(self) -> list[Route]:
        """The one route, with Versature's trailing slash."""
        return [Route("/api/oauth/authorize/", self.visit, methods=["GET", "POST"])]

    async def visit(self, http: Request) -> Response:
        """The page, the way back, or word of what is wrong."""
        try:
            form = read_form(await http.body()) if http.method == "POST" else {}
            parameters = {**read_form(http.url.query.encode()), **form}
            request = AuthorizationRequest.read(parameters, self._provider.redirect_uris)
        except BadAuthorizationRequest as bad:
            self._note("error_page")
            return error_page(str(bad))
        except Refusal as refusal:
            self._note("error_page")
            return error_page(refusal.description)
        if http.method == "POST":
            return self._decide(request, form)
        self._note("page", request)
        return login_page(request)

    def _decide(self, request: AuthorizationRequest, form: dict[str, str]) -> Response:
        user, decision = form.get("username", ""), form.get("decision")
        if decision == "deny":
            self._note("access_denied", request)
            return RedirectResponse(request.return_address(error="access_denied"), 302)
        if decision != "allow":
            self._note("error_page", request)
            return error_page("The page was sent without a decision.")
        if not knows(user, form.get("password", "")):
            self._note("invalid_login", request)
            return login_page(request, username=user, wrong=True)
        code = self._provider.server.issue_code(
            client_id=request.client_id,
            user=user,
            redirect_uri=request.redirect_uri,
            challenge=request.challenge,
            switches=self._provider.switches,
        )
        self._note("code_issued", request, user)
        return RedirectResponse(request.return_address(code=code), 302)

    def _note(self, outcome: str, request: AuthorizationRequest | None = None, user: str | None = None) -> None:
        self._provider.calls.add(
            Call(
                endpoint="authorize",
                outcome=outcome,
                client_id=None if request is None else request.client_id,
                user=user,
                pkce=request is not None and request.challenge is not None,
            )
        )
