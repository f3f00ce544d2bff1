"""What becomes of a provider's answer on its way into the database."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from service.core.model import Grant


class Verdict(Enum):
    """What became of an answer."""

    SAVED = auto()
    SUPERSEDED = auto()
    REVOKED = auto()
    DATABASE_BEHIND = auto()
    IN_ESCROW = auto()
    IN_MEMORY = auto()


@dataclass(frozen=True, slots=True)
class Settlement:
    """A verdict, with the row as it stood at `asked_at` where the database could be asked."""

    verdict: Verdict
    asked_at: datetime
    grant: Grant | None = None
