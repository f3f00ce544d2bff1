"""The switches as they stand now, and which request the fault hits."""

from collections.abc import Mapping

from sandbox.switches import FaultName, Switches


class Switchboard:
    """Holds the current switches; the only place where they change."""

    def __init__(self, switches: Switches) -> None:
        self.current = switches

    def change(self, changes: Mapping[str, object]) -> Switches:
        """Apply *changes* from the next request on and return all switches; a bad change raises SwitchError."""
        self.current = self.current.changed(changes)
        return self.current

    def take_fault(self, user: str | None) -> FaultName:
        """The fault that a token request of *user* meets; counts it where only some requests are to fail."""
        switches = self.current
        if switches.fault == "none" or (switches.fault_users and user not in switches.fault_users):
            return "none"
        if switches.fault_times == 1:
            self.change({"fault": "none"})
        elif switches.fault_times is not None:
            self.change({"fault_times": switches.fault_times - 1})
        return switches.fault
