"""The log of calls that tests count. It holds no token and no secret, only what tells one call from another."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final, Literal

Endpoint = Literal["token", "revoke", "authorize", "api"]

REMEMBERED: Final = 100_000  # a demo left running for weeks must not fill the memory
FILTERS: Final = ("endpoint", "grant_type", "client_id", "user", "outcome", "fault")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request; `outcome` is what the server did, `fault` what then became of the answer.

    `refresh_token_digest` is of the refresh token that was shown, or of whatever token was to be revoked.
    """

    endpoint: Endpoint
    outcome: str
    grant_type: str | None = None
    client_id: str | None = None
    user: str | None = None
    fault: str | None = None
    vendor_id_present: bool = False
    pkce: bool = False
    refresh_token_digest: str | None = None


def digest(token: str | None) -> str | None:
    """A name for a token that shows that it came twice, and nothing else."""
    return None if token is None else hashlib.sha256(token.encode()).hexdigest()[:12]


class CallLog:
    """The last calls, oldest first, each with its number and the sandbox's time."""

    def __init__(self, now: Callable[[], float], *, remembered: int = REMEMBERED) -> None:
        self._now = now
        self._seq = 0
        self._items: deque[dict[str, object]] = deque(maxlen=remembered)

    def add(self, call: Call) -> None:
        """Note *call*, as the next one."""
        self._seq += 1
        self._items.append({"seq": self._seq, "at": self._now(), **asdict(call)})

    def matching(self, wanted: Mapping[str, str]) -> list[dict[str, object]]:
        """The calls whose fields have exactly the wanted values."""
        return [item for item in self._items if all(item[name] == value for name, value in wanted.items())]

    def clear(self) -> None:
        """Forget all calls; numbers go on, so that a call is never taken for an earlier one."""
        self._items.clear()


def outcomes(items: list[dict[str, object]]) -> dict[str, int]:
    """How often each outcome occurs among *items*."""
    return dict(Counter(str(item["outcome"]) for item in items))
