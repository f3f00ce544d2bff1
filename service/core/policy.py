"""The durations that the core obeys, gathered from the settings once at start."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Policy:
    """How long things may take and live.

    `unstated_life` is the life of an access token whose answer named no `expires_in`; `wait_while_valid` is how long
    a caller waits for a renewal although the old token still works; `save_patience` is how long callers wait for the
    commit of an answer, and then once more for a look at its row, before they get it from memory; `renewals_at_once` is
    how many renewals one process has under way upon requests for one application and grant type, `background_at_once`
    how many by itself: no more than it has the time for, or answers come too late to the database.
    """

    upstream_deadline: timedelta = timedelta(seconds=10)
    lease: timedelta = timedelta(seconds=30)
    takeover: timedelta = timedelta(seconds=30)
    wait: timedelta = timedelta(seconds=15)
    wait_while_valid: timedelta = timedelta(seconds=2)
    save_patience: timedelta = timedelta(milliseconds=100)
    backoff_initial: timedelta = timedelta(seconds=1)
    backoff_max: timedelta = timedelta(seconds=300)
    forced_interval: timedelta = timedelta(seconds=30)
    forced_interval_max: timedelta = timedelta(hours=1)
    local_cache: timedelta = timedelta(seconds=5)
    refresh_token_life: timedelta = timedelta(days=90)
    unstated_life: timedelta = timedelta(minutes=5)
    connect_life: timedelta = timedelta(minutes=10)
    renewals_at_once: int = 20
    background_at_once: int = 20
    background_every: timedelta = timedelta(milliseconds=250)
    renew_active: timedelta = timedelta(hours=24)
    keep_alive: timedelta = timedelta(days=80)
    renew_per_second: float = 10.0

    @property
    def places(self) -> int:
        """For how many renewals upon requests there is room, whoever they are for: one application may take half."""
        return 2 * self.renewals_at_once

    @property
    def confirm_every(self) -> timedelta:
        """How often what is cached is confirmed: so often that one failed try leaves time for another.

        Where nothing is served unasked the directory is read anew all the same: a browser's trip does not ask for it.
        """
        return self.local_cache / 3 or timedelta(seconds=1)
