"""The one way to renew a grant: a flight that claims, redeems and saves, or waits for whoever else does."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

from service.core import lifetimes
from service.core.caches import Caches
from service.core.clock import Clock
from service.core.condition.skew import ClockSkew
from service.core.errors import BrokerError, GrantNotFound, RenewalInProgress, StoreUnavailable, UpstreamError
from service.core.escrow.recovery import Recovery
from service.core.local_cache import LocalCache
from service.core.model import AccessToken, Application, Grant, GrantId, GrantState, GrantType
from service.core.policy import Policy
from service.core.ports import GrantStore
from service.core.records import Force
from service.core.redeeming import objections
from service.core.redeeming.attempts import Attempt, Ending, Observer, Origin
from service.core.redeeming.breaker import Breaker
from service.core.redeeming.redemption import Redeemer
from service.core.redeeming.steps import Step, Witness
from service.core.sealing import digests
from service.core.sealing.vault import Vault
from service.core.singleflight import Flights
from service.core.upkeep.errands import Errands

POLL_FIRST = timedelta(milliseconds=40)
POLL_LONGEST = timedelta(milliseconds=250)
SOON = timedelta(seconds=1)

FlightKey = GrantId | tuple[GrantId, str]


@dataclass(slots=True)
class _Course:
    """How a flight went: the row as it saw it last, and whether it found what somebody else's renewal had brought."""

    grant: Grant
    only_waited: bool = False


class Renewer:
    """Starts flights and lets callers join them; a flight outlives everybody who waits for it."""

    def __init__(
        self,
        grants: GrantStore,
        redeemer: Redeemer,
        vault: Vault,
        caches: Caches,
        local: LocalCache,
        recovery: Recovery,
        errands: Errands,
        breaker: Breaker,
        skew: ClockSkew,
        clock: Clock,
        policy: Policy,
        jitter: Callable[[], float],
        witness: Witness,
        observer: Observer,
    ) -> None:
        self._grants, self._redeemer, self._vault, self._caches, self._local = grants, redeemer, vault, caches, local
        self._recovery, self._errands, self._breaker, self._skew = recovery, errands, breaker, skew
        self._clock, self._policy, self._jitter = clock, policy, jitter
        self._witness, self._observer = witness, observer
        self._flights: Flights[FlightKey, AccessToken] = Flights()
        self._courses: WeakKeyDictionary[asyncio.Task[AccessToken], _Course] = WeakKeyDictionary()
        # Nobody takes all places: one slow provider stops nobody else.
        self._places = asyncio.Semaphore(policy.places)
        self._turns: defaultdict[tuple[str, GrantType], asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(policy.renewals_at_once)
        )

    def in_flight(self, grant: GrantId) -> bool:
        return self._flights.running(grant)

    def fly(
        self, application: Application, seen: Grant, *, instead_of: AccessToken | None = None
    ) -> tuple[asyncio.Task[AccessToken], bool]:
        """A flight towards a token newer than what *seen* holds, and whether it was already under way.

        With *instead_of* the flight is forced, towards one newer than that token, which may be ahead of the row.
        """
        return self._take_off(seen.id, seen.id, lambda: self._fly(application, seen, instead_of))

    def only_waited(self, flight: asyncio.Task[AccessToken]) -> bool:
        """Whether *flight* asked nobody, and found what somebody else's renewal had brought."""
        course = self._courses.get(flight)
        return course is not None and course.only_waited

    def ask_again_in(self, flight: asyncio.Task[AccessToken]) -> timedelta:
        """When to come back for whoever waited for *flight* in vain."""
        course = self._courses.get(flight)
        return SOON if course is None else self._claim_left(course.grant)

    async def drain(self, timeout: timedelta) -> int:
        """Wait for all flights, at most *timeout*; returns how many are still in the air."""
        return await self._flights.drain(timeout)

    def fly_claimed(self, application: Application, claimed: Grant, began: float) -> asyncio.Task[AccessToken]:
        """Finish what the background claimed at *began*; callers who come meanwhile join."""

        async def work() -> AccessToken:
            token = await self._redeem_as_probe(application, claimed, began)
            if token is not None:
                return token
            return await self._fly(application, claimed, None, Origin.BACKGROUND)

        task, taken = self._take_off(claimed.id, claimed.id, work)
        if taken:  # by a flight that waits for this very claim
            task, _ = self._take_off(claimed.id, (claimed.id, "background"), work)
        return task

    def _take_off(
        self, grant: GrantId, key: FlightKey, work: Callable[[], Coroutine[Any, Any, AccessToken]]
    ) -> tuple[asyncio.Task[AccessToken], bool]:
        """While anything flies for *grant*, its cached token is handed out only by those who wait."""
        task, taken = self._flights.join(key, work)
        if not taken:
            self._local.ground(grant)
            task.add_done_callback(lambda _: self._landed(grant))
        return task, taken

    def _landed(self, grant: GrantId) -> None:
        if not self._flights.running(grant) and not self._flights.running((grant, "background")):
            self._local.release(grant)

    async def _redeem_as_probe(self, application: Application, claimed: Grant, began: float) -> AccessToken | None:
        with Attempt(claimed.id, Origin.BACKGROUND, self._observer) as attempt:
            try:
                self._breaker.pass_or_raise(application, claimed.id.type)
            except UpstreamError:
                self._release(claimed)
                raise
            return await self._redeem(application, claimed, began, attempt)

    async def _fly(
        self, application: Application, seen: Grant, instead_of: AccessToken | None, origin: Origin = Origin.REQUEST
    ) -> AccessToken:
        forced, known = instead_of is not None, max(seen.generation, instead_of.generation if instead_of else 0)
        give_up_at = self._clock.monotonic() + self._policy.wait.total_seconds()
        grant, pause, course = seen, POLL_FIRST, self._set_out(seen)
        while True:
            course.grant = whole = await self._recovery.before_claim(grant)
            if whole.generation == grant.generation:
                token = await self._try(application, whole, forced=forced, origin=origin)
                if token is not None:
                    return token
                if self._clock.monotonic() >= give_up_at:
                    raise RenewalInProgress(
                        "Another replica is renewing this grant.", retry_after=self._claim_left(whole)
                    )
                await self._clock.sleep(pause * (0.5 + self._jitter()))
                pause = min(pause * 2, POLL_LONGEST)
                if (token := await self._published(seen.id, known)) is not None:
                    course.only_waited = True
                    return token
                whole = await self._reread(seen.id)
            grant = whole
            if grant.state is GrantState.REVOKED:
                objections.raise_if_dead(grant)
            if grant.generation > known:
                token = self._vault.open_access(grant)
                if token is not None and lifetimes.is_fresh(token, self._clock.now(), None):
                    course.only_waited = True
                    return token

    def _set_out(self, seen: Grant) -> _Course:
        course = _Course(seen)
        if (flight := asyncio.current_task()) is not None:
            self._courses[flight] = course
        return course

    async def _try(self, application: Application, grant: Grant, *, forced: bool, origin: Origin) -> AccessToken | None:
        """Claim and redeem; None when somebody else holds the claim, or the grant moved on."""
        now, claimed_until = self._clock.now(), objections.claimed_until(grant, self._policy)
        if claimed_until is not None and now <= claimed_until:
            objections.raise_if_set_back(grant, now)
            return None
        objections.raise_if_not_renewable(application, grant, now, forced=forced)
        self._breaker.raise_if_open(application, grant.id.type)
        async with self._turns[application.name, grant.id.type], self._places:
            with Attempt(grant.id, origin, self._observer) as attempt:
                return await self._attempt(application, grant, attempt, forced=forced)

    async def _attempt(
        self, application: Application, grant: Grant, attempt: Attempt, *, forced: bool
    ) -> AccessToken | None:
        # Asked only now: the application's trouble may have shown while this flight waited for its turn.
        self._breaker.pass_or_raise(application, grant.id.type)
        began, claimed = self._clock.monotonic(), None
        try:
            claimed = await self._claim(application, grant, forced=forced)
        finally:
            if claimed is None:
                self._breaker.not_sent_after_all(application, grant.id.type)
        if claimed is None:
            attempt.ends_as(Ending.NO_CLAIM)
            return None
        return await self._redeem(application, claimed, began, attempt)

    async def _redeem(
        self, application: Application, claimed: Grant, began: float, attempt: Attempt
    ) -> AccessToken | None:
        """Renew what was claimed; None when what an earlier attempt had brought was found instead."""
        self._witness(Step.CLAIMED)
        try:
            moved = await self._recovery.after_claim(claimed)
        except BrokerError:
            self._breaker.not_sent_after_all(application, claimed.id.type)
            raise
        if moved is not None or claimed.claim is None:
            self._breaker.not_sent_after_all(application, claimed.id.type)
            attempt.ends_as(Ending.RECOVERED if moved is not None else Ending.NO_CLAIM)
            return None
        return await self._redeemer.redeem(application, claimed, claimed.claim, began, attempt)

    async def _published(self, grant: GrantId, known: int) -> AccessToken | None:
        """The token that another replica has just renewed, if it got as far as the shared cache."""
        token = await self._caches.shared_token(grant)
        if token is None or token.generation <= known:
            return None
        return token if lifetimes.is_fresh(token, self._clock.now(), None) else None

    async def _claim(self, application: Application, grant: Grant, *, forced: bool) -> Grant | None:
        now, force = self._clock.now(), None
        if forced:
            interval = lifetimes.next_forced_interval(grant, now, self._policy)
            force = Force(until=now + interval, interval=interval)
        attempt_id = secrets.token_hex(16)
        try:
            claimed = await self._grants.claim(
                grant.id,
                generation=grant.generation,
                attempt_id=attempt_id,
                fingerprint=digests.fingerprint(application),
                lease=self._policy.lease,
                takeover=objections.takeover(grant, self._policy),
                force=force,
            )
        except StoreUnavailable as away:
            if away.asked:
                self._errands.run_twice("a claim", lambda: self._grants.release(grant.id, attempt_id=attempt_id))
            raise
        if claimed is not None and claimed.claim is not None:
            self._skew.note(claimed.claim.started_at, now, self._clock.now())
        return claimed

    def _release(self, claimed: Grant) -> None:
        claim = claimed.claim
        if claim is not None:
            self._errands.run("a claim", lambda: self._grants.release(claimed.id, attempt_id=claim.attempt_id))

    def _claim_left(self, grant: Grant) -> timedelta:
        """When the claim that *grant* shows is over; soon while its holder may still be waiting for an answer."""
        until, now = objections.claimed_until(grant, self._policy), self._clock.now()
        if grant.claim is None or until is None or now < grant.claim.started_at + self._policy.upstream_deadline:
            return SOON
        return max(until - now, SOON)

    async def _reread(self, grant: GrantId) -> Grant:
        current = await self._grants.get(grant)
        if current is None:
            raise GrantNotFound(grant)
        return current
