"""Distributed tracing as far as we take part in it: `traceparent` (W3C Trace Context), read, noted and passed on.

Nothing else of a caller's context goes to the provider: no `tracestate`, no `baggage`.
"""

import re
import secrets
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

HEADER = "traceparent"
_FORM = re.compile(r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")
_LONGEST = 512
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Trace:
    """One step of a distributed trace: what this process does for one request."""

    trace_id: str
    span_id: str
    sampled: bool

    def next_header(self) -> str:
        """The `traceparent` of a request made on behalf of this step, as a step of its own."""
        return f"00-{self.trace_id}-{secrets.token_hex(8)}-{int(self.sampled):02x}"


current: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""The step on whose behalf the present task works. A flight belongs to the request that started it."""


def read_traceparent(values: Sequence[str]) -> Trace | None:
    """Our step in the caller's trace; None when there is none, or none that the specification allows.

    A version that is not ours yet is read as far as ours goes; of several headers nobody knows which one counts.
    """
    if len(values) != 1 or len(values[0]) > _LONGEST:
        return None
    found = _FORM.match(values[0])
    if found is None or found["version"] == "ff":
        return None
    rest = values[0][found.end() :]
    if rest and (found["version"] == "00" or not rest.startswith("-")):
        return None
    if not int(found["trace"], 16) or not int(found["parent"], 16):
        return None
    return Trace(found["trace"], secrets.token_hex(8), bool(int(found["flags"], 16) & _SAMPLED))
