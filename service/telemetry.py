"""Metrics: their names, and what they are asked of. No user, no secret and nothing unbounded is ever a label."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service import __version__
from service.core.model import GrantId
from service.core.redeeming.attempts import Ending, Origin

LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)
SERVED = "served"
NOWHERE = "none"
"""The source of a token that was not handed out."""

# Else every counter and histogram has a gauge beside it that says when it began.
disable_created_metrics()  # type: ignore[no-untyped-call]

Samples = Iterable[tuple[Sequence[str], float]]


@dataclass(frozen=True, slots=True)
class Described:
    """One metric as the operator's handbook lists it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    what: str


class Metrics:
    """The metrics of one application object; two of them in one process never mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.catalogue: list[Described] = []
        self._requests()
        self._renewals()
        self._state_of_the_house()

    def _requests(self) -> None:
        """What is counted as it happens, at the two ends of the house."""
        self.token_requests = self._counter(
            "token_requests",
            "Requests for tokens: served, or the problem's code; and where the token came from.",
            "outcome",
            "source",
        )
        self.token_latency = self._latency(
            "token_request",
            "Time until a request for a token was answered; those of the hot lane are not timed.",
            "outcome",
            "source",
        )
        self.requests = self._latency(
            "http_request",
            "Time until the answer of a request was complete, by route and status.",
            "method",
            "route",
            "status",
        )
        self.upstream = self._latency(
            "upstream_request",
            "Requests to the provider, by grant type (or revocation) and outcome.",
            "grant_type",
            "outcome",
        )
        self.redis = self._counter(
            "redis_operations",
            "Operations on Redis, by outcome: ok, failed, or bypassed while it is in trouble.",
            "operation",
            "outcome",
        )
        self.provider_skew = self._gauge(
            "provider_clock_skew_seconds",
            "The provider's clock less ours, as its last token answer tells it.",
            "application",
        )

    def _renewals(self) -> None:
        self.attempts = self._counter(
            "renewal_attempts", "Attempts to renew that were begun.", "application", "grant_type", "by"
        )
        self.renewals = self._counter(
            "renewals",
            "Attempts to renew that have ended, each in exactly one outcome.",
            "application",
            "grant_type",
            "by",
            "outcome",
        )
        self.lost_grants = self._counter(
            "lost_grants",
            "Grants that ended as lost_in_transit: an answer of the provider never reached our first durable write, "
            "or the database went back in time after it.",
            "application",
        )

    def _state_of_the_house(self) -> None:
        """What is asked of the parts whenever the metrics are read."""
        self.redis_bypassed = self._gauge("redis_bypassed", "1 while Redis is not asked because it failed.")
        self.database_bypassed = self._gauge(
            "database_bypassed", "1 while the database is left alone because it failed."
        )
        self.clock_skew = self._gauge(
            "clock_skew_seconds",
            "The database's clock less this process's, measured at the last claim or readiness check.",
        )
        self.escrow_entries = self._gauge("escrow_entries", "Answers that wait for the database, as far as known.")
        self.escrow_age = self._gauge("escrow_oldest_age_seconds", "For how long the oldest of them waits.")
        self.database_behind = self._gauge(
            "database_behind_grants",
            "Grants found older in the database than elsewhere in the last ten minutes: it went back in time.",
        )
        self.audit_backlog = self._gauge("audit_backlog_entries", "Entries of the audit that are not written yet.")
        self.local_entries = self._gauge("local_cache_entries", "Access tokens in this process's memory.")
        self.missing_keys = self._gauge(
            "sealing_keys_missing", "Sealing keys that stored values needed and that this process does not have."
        )
        self._gauge("build_info", "The running version.", "version").labels(__version__).set(1)

    def ask(self, name: str, what: str, labels: Sequence[str], samples: Callable[[], Samples]) -> None:
        """A gauge whose series are whatever *samples* says when the metrics are read."""
        self._describe(name, "gauge", labels, what)
        self.registry.register(_Asked(GaugeMetricFamily, f"token_broker_{name}", what, labels, samples))

    def ask_count(self, name: str, what: str, count: Callable[[], int]) -> None:
        """A counter that somebody else keeps."""
        self._describe(f"{name}_total", "counter", (), what)
        self.registry.register(
            _Asked(CounterMetricFamily, f"token_broker_{name}", what, (), lambda: [((), float(count()))])
        )

    def answered(self, outcome: str, source: str, seconds: float) -> None:
        """A request for a token was answered."""
        self.token_requests.labels(outcome, source).inc()
        self.token_latency.labels(outcome, source).observe(seconds)

    def observe_upstream(self, grant_type: str, outcome: str, seconds: float) -> None:
        self.upstream.labels(grant_type, outcome).observe(seconds)

    def note_provider_skew(self, application: str, skew: timedelta) -> None:
        self.provider_skew.labels(application).set(skew / timedelta(seconds=1))

    def count_redis(self, operation: str, outcome: str) -> None:
        self.redis.labels(operation, outcome).inc()

    def count_lane(self, answers: int) -> None:
        self.token_requests.labels(SERVED, "local").inc(answers)

    def count_lost(self, application: str) -> None:
        self.lost_grants.labels(application).inc()

    def attempt_began(self, grant: GrantId, origin: Origin) -> None:
        self.attempts.labels(grant.application, grant.type, origin).inc()

    def attempt_ended(self, grant: GrantId, origin: Origin, ending: Ending) -> None:
        self.renewals.labels(grant.application, grant.type, origin, ending).inc()

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _describe(self, name: str, kind: str, labels: Sequence[str], what: str) -> None:
        self.catalogue.append(Described(f"token_broker_{name}", kind, tuple(labels), what))

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        self._describe(f"{name}_total", "counter", labels, what)
        return Counter(f"token_broker_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        self._describe(name, "gauge", labels, what)
        return Gauge(f"token_broker_{name}", what, labels, registry=self.registry)

    def _latency(self, name: str, what: str, *labels: str) -> Histogram:
        self._describe(f"{name}_duration_seconds", "histogram", labels, what)
        return Histogram(
            f"token_broker_{name}_duration_seconds", what, labels, buckets=LATENCIES, registry=self.registry
        )


class _Asked(Collector):
    """One metric whose series come and go."""

    def __init__(
        self,
        family: type[GaugeMetricFamily] | type[CounterMetricFamily],
        name: str,
        what: str,
        labels: Sequence[str],
        samples: Callable[[], Samples],
    ) -> None:
        self._family, self._name, self._what, self._labels, self._samples = family, name, what, labels, samples

    def describe(self) -> Iterable[Metric]:
        return [self._family(self._name, self._what, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        found = self._family(self._name, self._what, labels=self._labels)
        for labels, value in self._samples():
            found.add_metric(list(labels), value)
        return [found]
