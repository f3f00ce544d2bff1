"""How far this process's clock is from the database's, which decides leases and is the same for all replicas."""

from datetime import datetime, timedelta

LIMIT = timedelta(seconds=2)
"""Beyond it a token's last seconds are misjudged by more than its safety margin allows for."""


class ClockSkew:
    """The last measurement; positive when the database is ahead of us."""

    def __init__(self) -> None:
        self.last = timedelta(0)

    def note(self, database_at: datetime, asked_at: datetime, answered_at: datetime) -> None:
        """The database's clock read *database_at* some time between the question and its answer."""
        if database_at < asked_at:
            self.last = database_at - asked_at
        elif database_at > answered_at:
            self.last = database_at - answered_at
        else:
            self.last = timedelta(0)

    @property
    def is_too_large(self) -> bool:
        return abs(self.last) > LIMIT
