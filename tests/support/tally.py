"""An observer that counts."""

from collections import Counter

from service.core.model import GrantId
from service.core.redeeming.attempts import Ending, Origin


class Tally:
    """What an `Observer` was told: attempts begun and ended by origin, and the ways in which they ended."""

    def __init__(self) -> None:
        self.began: Counter[Origin] = Counter()
        self.ended: Counter[Origin] = Counter()
        self.endings: Counter[Ending] = Counter()

    def attempt_began(self, _grant: GrantId, origin: Origin) -> None:
        self.began[origin] += 1

    def attempt_ended(self, _grant: GrantId, origin: Origin, ending: Ending) -> None:
        self.ended[origin] += 1
        self.endings[ending] += 1
