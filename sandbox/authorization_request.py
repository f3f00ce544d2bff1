"""What a client sends a browser with: the parameters of RFC 6749 §4.1.1 and RFC 7636 §4.3, checked."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from sandbox.directory import CLIENTS

_PARAMETERS: Final = (
    "response_type",
    "client_id",
    "redirect_uri",
    "state",
    "scope",
    "code_challenge",
    "code_challenge_method",
)


class BadAuthorizationRequest(Exception):
    """The request cannot be served; its message is for the person in front of the browser."""


@dataclass(frozen=True)
class AuthorizationRequest:
    """A request that may be put before a user."""

    client_id: str
    redirect_uri: str
    state: str | None
    challenge: str | None
    carried: Mapping[str, str]

    @classmethod
    def read(cls, parameters: Mapping[str, str], redirect_uris: Collection[str]) -> Self:
        """The request that *parameters* make; the redirect URI must be exactly one of the registered ones.

        Raises:
            BadAuthorizationRequest: nothing is ever redirected then, for the address itself may be the attack.
        """
        client = CLIENTS.get(parameters.get("client_id", ""))
        if client is None or "authorization_code" not in client.grant_types:
            raise BadAuthorizationRequest("The application that sent you is not known here, or may not ask for logins.")
        redirect_uri = parameters.get("redirect_uri", "")
        if redirect_uri not in redirect_uris:
            raise BadAuthorizationRequest("The address to return to is not registered for this application.")
        if parameters.get("response_type") != "code":
            raise BadAuthorizationRequest("The application asked for something other than a code.")
        challenge = parameters.get("code_challenge") or None
        if (challenge is not None or "code_challenge_method" in parameters) and (
            challenge is None or parameters.get("code_challenge_method") != "S256"
        ):
            raise BadAuthorizationRequest("The application did not use PKCE with S256.")
        carried = {name: parameters[name] for name in _PARAMETERS if name in parameters}
        return cls(client.id, redirect_uri, parameters.get("state"), challenge, carried)

    def return_address(self, **answer: str) -> str:
        """Where the browser goes next: the redirect URI with *answer* and the state, its own query kept."""
        if self.state is not None:
            answer["state"] = self.state
        parts = urlsplit(self.redirect_uri)
        query = [*parse_qsl(parts.query, keep_blank_values=True), *answer.items()]
        return urlunsplit(parts._replace(query=urlencode(query)))
