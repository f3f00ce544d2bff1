"""POST /api/oauth/token/: the three grant types, and the faults."""

from collections.abc import Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sandbox.answers import refusal_answer, token_answer
from sandbox.calls import Call, digest
from sandbox.directory import COMPANY_USER, Client
from sandbox.faults import FAULTS
from sandbox.forms import authenticated_client, read_form, required
from sandbox.issued import Issue
from sandbox.provider import Provider
from sandbox.refusals import Refusal
from sandbox.switches import Switches

Form = Mapping[str, str]


class TokenEndpoint:
    """Answers token requests, unless the switches want them to fail; notes every one in the log."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def routes(self) -> list[Route]:
        """The one route, with Versature's trailing slash."""
        return [Route("/api/oauth/token/", self.post, methods=["POST"])]

    async def post(self, request: Request) -> ASGIApp:
        """Act, note, answer; or what the fault of the moment makes of it."""
        try:
            form = read_form(await request.body())
        except Refusal as refusal:
            self._provider.calls.add(Call(endpoint="token", outcome=refusal.code))
            return refusal_answer(refusal)
        # Everything from here to the note is one step: no other request can come in between.
        switches, user, outcome = self._provider.switches, self._user(form), "not_acted"
        name = self._provider.switchboard.take_fault(user)

        def act() -> Response:
            nonlocal outcome
            outcome, answer = self._act(form, switches)
            return answer

        delivery = FAULTS[name].deliver(act, switches)
        self._note(form, user, outcome, None if name == "none" else name)
        return delivery

    def _act(self, form: Form, switches: Switches) -> tuple[str, Response]:
        try:
            issue = self._issue(form, switches)
        except Refusal as refusal:
            return refusal.code, refusal_answer(refusal)
        return "issued", token_answer(issue, switches)

    def _issue(self, form: Form, switches: Switches) -> Issue:
        grant_type = required(form, "grant_type")
        lenient = grant_type == "refresh_token" and not switches.refresh_needs_secret
        client = authenticated_client(form, needs_secret=not lenient)
        if grant_type not in _REDEEMERS:
            raise Refusal("unsupported_grant_type", "This grant type is not offered.")
        if grant_type not in client.grant_types:
            raise Refusal("unauthorized_client", "The credential was made for another flow.")
        return _REDEEMERS[grant_type](self._provider, form, client, switches)

    def _user(self, form: Form) -> str | None:
        match form.get("grant_type"):
            case "client_credentials":
                return COMPANY_USER
            case "authorization_code":
                return self._provider.server.user_of_code(form.get("code", ""))
            case "refresh_token":
                return self._provider.server.user_of_token(form.get("refresh_token", ""))
        return None

    def _note(self, form: Form, user: str | None, outcome: str, fault: str | None) -> None:
        self._provider.calls.add(
            Call(
                endpoint="token",
                outcome=outcome,
                grant_type=form.get("grant_type"),
                client_id=form.get("client_id"),
                user=user,
                fault=fault,
                vendor_id_present="vendor_id" in form,
                pkce="code_verifier" in form,
                refresh_token_digest=digest(form.get("refresh_token")),
            )
        )


def _redeem_code(provider: Provider, form: Form, client: Client, switches: Switches) -> Issue:
    return provider.server.redeem_code(
        required(form, "code"),
        client_id=client.id,
        redirect_uri=required(form, "redirect_uri"),
        verifier=form.get("code_verifier"),
        switches=switches,
    )


def _redeem_refresh_token(provider: Provider, form: Form, client: Client, switches: Switches) -> Issue:
    token = required(form, "refresh_token")
    return provider.server.redeem_refresh_token(token, client_id=client.id, switches=switches)


def _issue_to_company(provider: Provider, _form: Form, client: Client, switches: Switches) -> Issue:
    return provider.server.issue_to_company(client_id=client.id, switches=switches)


_REDEEMERS: Final[Mapping[str, Callable[[Provider, Form, Client, Switches], Issue]]] = {
    "authorization_code": _redeem_code,
    "refresh_token": _redeem_refresh_token,
    "client_credentials": _issue_to_company,
}
