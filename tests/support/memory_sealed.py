"""Every sealed value of the stores in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from service.core.model import Grant, GrantId
from service.core.sealing.resealing import HEAD_BYTES, Head, Kind, Mark, Resealed, SealedRow
from tests.support.memory_stores import MemoryAuthorizationStore, MemoryDirectoryStore, MemoryGrantStore, _Store


@dataclass(frozen=True, slots=True)
class _Value:
    grant: GrantId
    sealed: bytes | None
    since: datetime | None
    put: Callable[[bytes], None]


class MemorySealedRows(_Store):
    """A `SealedRows` over the fakes of the other stores."""

    def __init__(
        self, grants: MemoryGrantStore, requests: MemoryAuthorizationStore, directory: MemoryDirectoryStore
    ) -> None:
        super().__init__()
        self._grants, self._requests, self._directory = grants, requests, directory
        self.before_replacing: Callable[[], None] = lambda: None
        """What somebody else does between reading and writing."""

    async def heads(self, kind: Kind, *, after: Mark | None, limit: int) -> Sequence[Head]:
        async with self._transaction("heads"):
            return [
                Head(mark, value.sealed and value.sealed[:HEAD_BYTES], value.since)
                for mark, value in self._in_order(kind, after, limit)
            ]

    async def page(self, kind: Kind, *, header: bytes | None, after: Mark | None, limit: int) -> Sequence[SealedRow]:
        async with self._transaction("page"):
            return [
                SealedRow(mark, value.grant, None if _begins(value.sealed, header) else value.sealed)
                for mark, value in self._in_order(kind, after, limit)
            ]

    async def replace(self, kind: Kind, changes: Sequence[Resealed]) -> int:
        async with self._transaction("replace"):
            self.before_replacing()
            if kind is Kind.CLIENT_SECRET:
                self._directory.move_version()
            written, values = 0, self._values(kind)
            for change in changes:
                value = values.get(change.mark)
                if value is not None and value.sealed == change.old:
                    value.put(change.new)
                    written += 1
            return written

    def _in_order(self, kind: Kind, after: Mark | None, limit: int) -> Sequence[tuple[Mark, _Value]]:
        found = sorted(self._values(kind).items(), key=lambda item: _bytes(item[0]))
        return [item for item in found if after is None or _bytes(item[0]) > _bytes(after)][:limit]

    def _values(self, kind: Kind) -> Mapping[Mark, _Value]:
        match kind:
            case Kind.REFRESH_TOKEN | Kind.ACCESS_TOKEN:
                grants = [row.grant for row in self._grants.rows()]
                return {(row.id.application, row.id.user): self._token(kind, row) for row in grants}
            case Kind.CLIENT_SECRET:
                return self._client_secrets()
            case Kind.VERIFIER:
                return self._verifiers()

    def _token(self, kind: Kind, grant: Grant) -> _Value:
        is_refresh = kind is Kind.REFRESH_TOKEN

        def put(sealed: bytes) -> None:
            now = self._grants.peek(grant.id)
            assert now is not None
            changed = replace(now, refresh_sealed=sealed) if is_refresh else replace(now, access_sealed=sealed)
            self._grants.put(changed)

        return _Value(grant.id, grant.refresh_sealed if is_refresh else grant.access_sealed, grant.issued_at, put)

    def _client_secrets(self) -> Mapping[Mark, _Value]:
        kept = self._directory.applications

        def value(name: str) -> _Value:
            def put(sealed: bytes) -> None:
                kept[name] = replace(kept[name], sealed_secret=sealed)

            return _Value(GrantId(name, ""), kept[name].sealed_secret, None, put)

        return {(name,): value(name) for name in kept}

    def _verifiers(self) -> Mapping[Mark, _Value]:
        kept = self._requests.requests

        def value(ticket: bytes) -> _Value:
            def put(sealed: bytes) -> None:
                kept[ticket] = replace(kept[ticket], sealed_verifier=sealed)

            request = kept[ticket]
            return _Value(request.grant, request.sealed_verifier, request.started_at, put)

        return {(ticket,): value(ticket) for ticket in kept}


def _begins(sealed: bytes | None, header: bytes | None) -> bool:
    return sealed is not None and header is not None and sealed.startswith(header)


def _bytes(mark: Mark) -> tuple[bytes, ...]:
    return tuple(part.encode() if isinstance(part, str) else part for part in mark)
