"""The small ports in memory: a keyring that hides nothing, a shared cache and an escrow that remember what they got."""

import json
from dataclasses import astuple

from service.core.errors import KeyUnavailable
from service.core.model import AccessToken, GrantId, SealedTokens
from service.core.ports import Place, SealBroken


class MemoryKeyring:
    """A `Keyring` whose sealed values are readable; they open at their own place only, with a key that is `known`."""

    def __init__(self) -> None:
        self.sealing = "k1"
        self.known = {"k1"}

    def seal(self, secret: str, place: Place) -> bytes:
        return json.dumps([self.sealing, *astuple(place), secret]).encode()

    def open(self, sealed: bytes, place: Place) -> str:
        try:
            key, *bound, secret = json.loads(sealed)
        except ValueError:
            raise SealBroken from None
        if key not in self.known:
            raise KeyUnavailable
        if tuple(bound) != astuple(place):
            raise SealBroken
        return str(secret)


class MemoryTokenCache:
    """A `TokenCache` that keeps everything it was given."""

    def __init__(self) -> None:
        self.tokens: dict[GrantId, AccessToken] = {}
        self.buried: dict[GrantId, int] = {}

    async def put(self, grant: GrantId, token: AccessToken) -> None:
        known = self.tokens.get(grant)
        if (known is None or known.generation <= token.generation) and self.buried.get(grant, 0) < token.generation:
            self.tokens[grant] = token

    async def bury(self, grant: GrantId, generation: int) -> None:
        self.buried[grant] = max(generation, self.buried.get(grant, 0))
        if (known := self.tokens.get(grant)) is not None and known.generation <= generation:
            del self.tokens[grant]


class MemoryEscrow:
    """An `Escrow` that lists what it was given."""

    def __init__(self) -> None:
        self.kept: list[tuple[GrantId, int, str, SealedTokens]] = []

    async def put(self, grant: GrantId, generation: int, attempt_id: str, tokens: SealedTokens) -> None:
        self.kept.append((grant, generation, attempt_id, tokens))
