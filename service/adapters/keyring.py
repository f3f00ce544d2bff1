"""Sealing with AES-256-GCM-SIV (RFC 8452): random nonces stay safe at any volume.

A sealed value is: version (1 byte) | length of key id (1 byte) | key id | nonce (12 bytes) | ciphertext and tag.
The associated data are that header and the fixed logical names of the place, each length-prefixed.
"""

import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from service.core.errors import KeyUnavailable
from service.core.health import READY, PartHealth, Readiness
from service.core.model import SealingKey
from service.core.ports import SealBroken
from service.core.records import Place

_VERSION = 1
_NONCE_BYTES = 12


class AesKeyring:
    """A `Keyring` over a list of keys: the first seals, all of them open."""

    def __init__(self, keys: Sequence[SealingKey]) -> None:
        self._sealing_id = keys[0].id.encode()
        self._ciphers = {key.id.encode(): AESGCMSIV(key.material) for key in keys}
        self.missing: set[bytes] = set()
        """Ids of keys that stored values needed and that are not here."""

    @property
    def ids(self) -> list[str]:
        """The ids of the keys that are here; the first seals."""
        return [id_.decode() for id_ in self._ciphers]

    async def health(self) -> PartHealth:
        """Not ready from the first value on that needs a key which another replica may have."""
        if not self.missing:
            return READY
        return PartHealth(Readiness.NOT_READY, "stored secrets need a key that BROKER_ENCRYPTION_KEYS does not hold")

    def seal(self, secret: str, place: Place) -> bytes:
        header = bytes((_VERSION, len(self._sealing_id))) + self._sealing_id
        nonce = os.urandom(_NONCE_BYTES)
        plain = secret.encode("utf-8", "surrogatepass")
        return header + nonce + self._ciphers[self._sealing_id].encrypt(nonce, plain, _bound_to(header, place))

    def open(self, sealed: bytes, place: Place) -> str:
        header, rest = _split_header(sealed)
        cipher = self._ciphers.get(header[2:])
        if cipher is None:
            self.missing.add(header[2:])
            raise KeyUnavailable
        try:
            plain = cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], _bound_to(header, place))
        except (InvalidTag, ValueError):
            raise SealBroken from None
        return plain.decode("utf-8", "surrogatepass")


def _split_header(sealed: bytes) -> tuple[bytes, bytes]:
    if len(sealed) < 2 or sealed[0] != _VERSION or len(sealed) < 2 + sealed[1] + _NONCE_BYTES:
        raise SealBroken
    end = 2 + sealed[1]
    return sealed[:end], sealed[end:]


def _bound_to(header: bytes, place: Place) -> bytes:
    parts = (place.kind, place.application, place.user, place.field)
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return header + b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
