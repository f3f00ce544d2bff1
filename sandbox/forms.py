"""Reading form-encoded bodies, and telling by them which client is asking."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from sandbox.directory import CLIENTS, Client, same_secret
from sandbox.refusals import Refusal


def read_form(body: bytes) -> dict[str, str]:
    """The fields of a form, whatever its Content-Type claims: the provider's own SDK calls its forms JSON.

    Fields without a value count as absent (RFC 6749 §3.2).

    Raises:
        Refusal: invalid_request, when the body is not UTF-8 or names a field twice.
    """
    try:
        fields = parse_qsl(body.decode(), errors="strict")
    except UnicodeDecodeError:
        raise Refusal("invalid_request", "The body is not UTF-8.") from None
    form = dict(fields)
    if len(form) < len(fields):
        raise Refusal("invalid_request", "A field occurs more than once.")
    return form


def required(form: Mapping[str, str], name: str) -> str:
    """The value of a field that must be there; invalid_request when it is not."""
    if name not in form:
        raise Refusal("invalid_request", f"{name} is missing.")
    return form[name]


def authenticated_client(form: Mapping[str, str], *, needs_secret: bool = True) -> Client:
    """The client that shows its id and secret in the body ("client_secret_post", the only documented way).

    Without *needs_secret* a missing secret is accepted, but never a wrong one.

    Raises:
        Refusal: invalid_client.
    """
    client = CLIENTS.get(form.get("client_id", ""))
    secret = form.get("client_secret")
    if client is None or (secret is None and needs_secret):
        raise Refusal("invalid_client", "The client is unknown or shows no secret.")
    if secret is not None and not same_secret(secret, client.secret):
        raise Refusal("invalid_client", "The client secret is wrong.")
    return client
