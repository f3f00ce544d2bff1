"""Leaves a troubled application alone: while its circuit is open, nobody asks the provider in its name."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from service.core.clock import Clock
from service.core.errors import UpstreamError
from service.core.lifetimes import next_retry
from service.core.model import Application, GrantId, GrantType
from service.core.policy import Policy

FAILING_GRANTS = 5
"""How many different grants must fail in a row before it is the application's trouble, and not theirs."""


@dataclass(slots=True)
class _Circuit:
    application: Application
    failures: int
    open_until: datetime
    error: type[UpstreamError]
    detail: str
    probing: bool = False


class Breaker:
    """One circuit per application and grant type, in this process only.

    A refused registration or a rate limit opens it at once, other trouble when it met several grants in a row. When
    its time is over one probe may pass while everybody else keeps getting the last error; a success closes it, and so
    does any change of the application's settings.
    """

    def __init__(self, clock: Clock, policy: Policy) -> None:
        self._clock, self._policy = clock, policy
        self._circuits: dict[tuple[str, GrantType], _Circuit] = {}
        self._failing: dict[tuple[str, GrantType], tuple[Application, set[GrantId]]] = {}

    def raise_if_open(self, application: Application, grant_type: GrantType) -> None:
        """Raise the error that opened the circuit, with an honest `retry_after`, until its time is over."""
        circuit = self._circuit(application, grant_type)
        if circuit is not None and (now := self._clock.now()) < circuit.open_until:
            raise circuit.error(circuit.detail, retry_after=circuit.open_until - now)

    def pass_or_raise(self, application: Application, grant_type: GrantType) -> None:
        """Let a request through that is sent at once, as the one probe if it has to be; or raise as above."""
        self.raise_if_open(application, grant_type)
        if (circuit := self._circuit(application, grant_type)) is not None:
            circuit.open_until, circuit.probing = self._clock.now() + self._policy.upstream_deadline, True

    def room(self, application: Application, grant_type: GrantType) -> int | None:
        """How many requests would pass now: none, one as the probe, or any number (None)."""
        circuit = self._circuit(application, grant_type)
        if circuit is None:
            return None
        return 0 if self._clock.now() < circuit.open_until else 1

    def not_sent_after_all(self, application: Application, grant_type: GrantType) -> None:
        """What was let through did not ask the provider: the next may be the probe."""
        circuit = self._circuit(application, grant_type)
        if circuit is not None and circuit.probing:
            circuit.open_until, circuit.probing = self._clock.now(), False

    def failed(
        self, application: Application, grant: GrantId, error: UpstreamError, retry_after: timedelta | None = None
    ) -> None:
        """*grant* met trouble that may be its own or the application's; the probe's is everybody's."""
        key = application.name, grant.type
        counted_for, failing = self._failing.get(key, (application, set()))
        if counted_for != application:
            failing = set()
        failing.add(grant)
        self._failing[key] = application, failing
        circuit = self._circuit(application, grant.type)
        if len(failing) >= FAILING_GRANTS or (circuit is not None and circuit.probing):
            self.trip(application, grant.type, error, retry_after)

    def trip(
        self, application: Application, grant_type: GrantType, error: UpstreamError, retry_after: timedelta | None
    ) -> timedelta:
        """Open the circuit; returns for how long. Failures that were on their way when it opened count as one."""
        now, failures = self._clock.now(), 1
        known = self._circuit(application, grant_type)
        if known is not None:
            if not known.probing and now < known.open_until:
                known.open_until = max(known.open_until, now + (retry_after or timedelta(0)))
                return known.open_until - now
            failures = known.failures + 1
        pause = next_retry(failures, self._policy, jitter=0.0, retry_after=retry_after)
        self._circuits[(application.name, grant_type)] = _Circuit(
            application, failures, now + pause, type(error), error.detail
        )
        return pause

    def close(self, application: Application, grant_type: GrantType) -> None:
        """The provider answered this application well."""
        self._circuits.pop((application.name, grant_type), None)
        self._failing.pop((application.name, grant_type), None)

    def _circuit(self, application: Application, grant_type: GrantType) -> _Circuit | None:
        circuit = self._circuits.get((application.name, grant_type))
        return circuit if circuit is not None and circuit.application == application else None
