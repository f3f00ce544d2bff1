"""POST /api/oauth/revoke/ (RFC 7009)."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.answers import refusal_answer, server_error
from sandbox.calls import Call, digest
from sandbox.forms import authenticated_client, read_form, required
from sandbox.provider import Provider
from sandbox.refusals import Refusal


class RevocationEndpoint:
    """Ends tokens; an unknown token gets the same 200 as a living one."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def routes(self) -> list[Route]:
        """The one route, with Versature's trailing slash."""
        return [Route("/api/oauth/revoke/", self.post, methods=["POST"])]

    async def post(self, request: Request) -> Response:
        """Revoke, note, answer."""
        form: dict[str, str] = {}
        fault = self._provider.switches.revocation_fault
        try:
            form = read_form(await request.body())
            user = self._provider.server.user_of_token(form.get("token", ""))
            outcome, answer = self._answer(form) if fault == "none" else ("not_acted", server_error())
        except Refusal as refusal:
            user, outcome, answer = None, refusal.code, refusal_answer(refusal)
        self._provider.calls.add(
            Call(
                endpoint="revoke",
                outcome=outcome,
                client_id=form.get("client_id"),
                user=user,
                fault=None if fault == "none" else fault,
                vendor_id_present="vendor_id" in form,
                refresh_token_digest=digest(form.get("token")),
            )
        )
        return answer

    def _answer(self, form: dict[str, str]) -> tuple[str, Response]:
        client = authenticated_client(form)
        known = self._provider.server.revoke(required(form, "token"), client_id=client.id)
        return ("revoked" if known else "unknown_token"), Response()
