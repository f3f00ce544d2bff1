"""How the provider says no: the error codes of RFC 6749 §5.2."""

from typing import Literal

RefusalCode = Literal[
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
]


class Refusal(Exception):
    """A request that is answered with an error code; `description` is for people and never quotes a secret."""

    def __init__(self, code: RefusalCode, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code: RefusalCode = code
        self.description = description

    @property
    def status(self) -> int:
        """401 when the client is not who it says it is, else 400."""
        return 401 if self.code == "invalid_client" else 400
