"""A token given to a caller, and where it came from."""

from dataclasses import dataclass
from enum import StrEnum

from service.core.model import AccessToken


class Source(StrEnum):
    """Where a token came from; `stale` and `uri-miss` are RFC 9211's words for "renewed" and "first of its kind"."""

    LOCAL = "local"
    REDIS = "redis"
    DATABASE = "database"
    RENEWAL_FAILING = "renewal_failing"
    STALE = "stale"
    URI_MISS = "uri-miss"


@dataclass(frozen=True, slots=True)
class Handout:
    """A token given to a caller; `collapsed` when the caller waited for a renewal that somebody else had started."""

    token: AccessToken
    source: Source
    collapsed: bool = False
