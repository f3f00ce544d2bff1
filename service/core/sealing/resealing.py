"""The port to every stored secret, whatever it is: to count them by key, and to seal them anew."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from service.core.model import GrantId
from service.core.ports import Keyring

HEAD_BYTES = 64
"""Enough of a sealed value to read the id of its key, which has at most 32 characters."""


class Kind(StrEnum):
    """What is stored sealed; one column each."""

    REFRESH_TOKEN = "refresh token"  # noqa: S105 - a word for people
    ACCESS_TOKEN = "access token"  # noqa: S105 - a word for people
    CLIENT_SECRET = "client secret"  # noqa: S105 - a word for people
    VERIFIER = "PKCE verifier"


Mark = tuple[str | bytes, ...]
"""Which row: its primary key, by which rows are read in order."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first bytes of one row's secret, None when it holds none, and since when it holds it, where that is known."""

    mark: Mark
    head: bytes | None = field(repr=False)
    since: datetime | None


@dataclass(frozen=True, slots=True)
class SealedRow:
    """One row's secret and whose it is: an application's own has no user. None: there is nothing to do here."""

    mark: Mark
    grant: GrantId
    sealed: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resealed:
    """The same secret as it was sealed and as it is to be."""

    mark: Mark
    old: bytes = field(repr=False)
    new: bytes = field(repr=False)


class SealedRows(Protocol):
    """All sealed columns. Every method reads or writes a bounded number of rows and raises `StoreUnavailable`."""

    async def heads(self, kind: Kind, *, after: Mark | None, limit: int) -> Sequence[Head]:
        """Up to *limit* rows in the order of their keys, those after *after*; fewer only at the end."""
        ...

    async def page(self, kind: Kind, *, header: bytes | None, after: Mark | None, limit: int) -> Sequence[SealedRow]:
        """As `heads`, with whole secrets; those that begin with *header* are left out of their rows."""
        ...

    async def replace(self, kind: Kind, changes: Sequence[Resealed]) -> int:
        """Write each `new` where `old` still stands, and nothing else of the row; returns how many were written.

        A row that somebody else is changing is not waited for. Where brokers keep what they read, they are told.
        """
        ...


class NamedKeyring(Keyring, Protocol):
    """A keyring whose sealed values tell which key sealed them."""

    missing: set[str]
    """Ids of keys that stored values needed and that are not here."""

    @property
    def key_ids(self) -> Sequence[str]:
        """All keys, the one that seals first."""
        ...

    @property
    def header(self) -> bytes:
        """How every value begins that the first key has sealed, and no other."""
        ...

    def key_id_of(self, sealed: bytes) -> str | None:
        """Which key *sealed* names, or its first `HEAD_BYTES`; None when it names none."""
        ...
