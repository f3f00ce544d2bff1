"""The whole provider without its HTTP: what every endpoint works on."""

from collections.abc import Callable, Sequence

from sandbox.authorization_server import AuthorizationServer
from sandbox.calls import CallLog
from sandbox.clock import SandboxClock
from sandbox.switchboard import Switchboard
from sandbox.switches import Switches


class Provider:
    """One provider with its own clock, switches, memory and log; two of them know nothing of each other."""

    def __init__(
        self, switches: Switches, *, redirect_uris: Sequence[str], now: Callable[[], float], mark: str = ""
    ) -> None:
        self.clock = SandboxClock(now)
        self.switchboard = Switchboard(switches)
        self.server = AuthorizationServer(self.clock, mark=mark)
        self.calls = CallLog(self.clock)
        self.redirect_uris = frozenset(redirect_uris)

    @property
    def switches(self) -> Switches:
        """The switches as they stand now."""
        return self.switchboard.current
