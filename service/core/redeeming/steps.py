"""The moments of a renewal and of a connect at which it matters whether this process lives on.

Whoever builds the broker may pass a witness that is told of each. The product passes none; the crash tests pass one
that ends or pauses the process, or takes something away from it.
"""

from collections.abc import Callable
from enum import StrEnum


class Step(StrEnum):
    """In the order in which they happen; each is reached when what it names has just been done."""

    CLAIMED = "claimed"
    LOOKED_INTO_ESCROW = "looked_into_escrow"
    OPENED = "opened"
    ANSWERED = "answered"
    SPOOLED = "spooled"
    COPIED = "copied"
    SAVED = "saved"
    CLEARED = "cleared"
    SHARED = "shared"
    PUBLISHED = "published"
    STATE_TAKEN = "state_taken"
    CODE_ANSWERED = "code_answered"
    CONNECTED = "connected"
    COMPLETED = "completed"


Witness = Callable[[Step], None]


def nobody(_step: Step) -> None:
    """The witness of the product: sees nothing."""
