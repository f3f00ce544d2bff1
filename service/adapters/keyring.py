"""Sealing with AES-256-GCM-SIV (RFC 8452): random nonces stay safe at any volume.

A sealed value is: version (1 byte) | length of key id (1 byte) | key id | nonce (12 bytes) | ciphertext and tag.
The associated data are that header and the fixed logical names of the place, each length-prefixed.
"""

import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from service.core.condition.health import READY, PartHealth, Readiness
from service.core.errors import KeyUnavailable
from service.core.model import SealingKey
from service.core.names import KEY_ID
from service.core.ports import SealBroken
from service.core.records import Place

_VERSION = 1
_NONCE_BYTES = 12


def key_id_of(sealed: bytes) -> str | None:
    """Which key *sealed* names, read without opening it: its first bytes are enough.

    None when it names none, or what no key can be called: then it is damaged, and no other replica would open it.
    """
    header = _header_of(sealed)
    name = None if header is None else KEY_ID.fullmatch(header[2:].decode("ascii", "replace"))
    return None if name is None else name[0]


class AesKeyring:
    """A `Keyring` over a list of keys: the first seals, all of them open."""

    def __init__(self, keys: Sequence[SealingKey]) -> None:
        self._sealing_id = keys[0].id.encode()
        self._ciphers = {key.id.encode(): AESGCMSIV(key.material) for key in keys}
        self._header = bytes((_VERSION, len(self._sealing_id))) + self._sealing_id
        self.missing: set[str] = set()
        """Ids of keys that stored values needed and that are not here."""

    @property
    def key_ids(self) -> Sequence[str]:
        return [key_id.decode() for key_id in self._ciphers]

    @property
    def header(self) -> bytes:
        return self._header

    def key_id_of(self, sealed: bytes) -> str | None:
        return key_id_of(sealed)

    async def health(self) -> PartHealth:
        """Not ready from the first value on that needs a key which another replica may have, until none does."""
        if not self.missing:
            return READY
        return PartHealth(Readiness.NOT_READY, "stored secrets need a key that BROKER_ENCRYPTION_KEYS does not hold")

    def seal(self, secret: str, place: Place) -> bytes:
        header, nonce = self._header, os.urandom(_NONCE_BYTES)
        plain = secret.encode("utf-8", "surrogatepass")
        return header + nonce + self._ciphers[self._sealing_id].encrypt(nonce, plain, _bound_to(header, place))

    def open(self, sealed: bytes, place: Place, *, needed: bool = True) -> str:
        header, rest = _split_header(sealed)
        cipher = self._ciphers.get(header[2:])
        if cipher is None:
            if (key_id := key_id_of(header)) is None:
                raise SealBroken
            if needed:
                self.missing.add(key_id)
            raise KeyUnavailable
        try:
            plain = cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], _bound_to(header, place))
        except (InvalidTag, ValueError):
            raise SealBroken from None
        return plain.decode("utf-8", "surrogatepass")


def _split_header(sealed: bytes) -> tuple[bytes, bytes]:
    header = _header_of(sealed)
    if header is None or len(sealed) < len(header) + _NONCE_BYTES:
        raise SealBroken
    return header, sealed[len(header) :]


def _header_of(sealed: bytes) -> bytes | None:
    if len(sealed) < 2 or sealed[0] != _VERSION or len(sealed) < 2 + sealed[1]:
        return None
    return sealed[: 2 + sealed[1]]


def _bound_to(header: bytes, place: Place) -> bytes:
    parts = (place.kind, place.application, place.user, place.field)
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return header + b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
