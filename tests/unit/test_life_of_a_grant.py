"""The life of a grant, told at random: two replicas, a provider that punishes reuse, and all that may go wrong.

What must hold however the story goes:

- nobody is handed a token that has ended, or the very token that was rejected, or any token of a revoked grant;
- a refresh token is never redeemed twice, except over an attempt without an answer, and then only after its takeover;
- generations only grow;
- an answer that arrived is never dropped, and nobody is sent to the provider again while his refresh token is good;
- when all is well again, whoever's refresh token is good gets an access token.
"""

import asyncio
import itertools
import logging
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.core.errors import BrokerError, ReauthorizationRequired, StoreUnavailable
from service.core.handout import Handout
from service.core.lifetimes import is_usable
from service.core.model import Grant, GrantState, TokenAnswer
from service.core.records import AuthorizationRequest
from service.core.redeeming.upstream import (
    Ambiguous,
    ClientRefused,
    NotSent,
    OtherRefusal,
    RateLimited,
    RefusedWithoutCode,
)
from service.core.sealing.vault import Vault
from tests.support.fake_server import Call, Lost, Rotation, Silence
from tests.support.replicas import ALICE, HOUR, REDIRECT_URI, REVOCABLE, House
from tests.support.virtual_time import VirtualClock, VirtualLoop

T = TypeVar("T")
LEASE_AND_TAKEOVER = timedelta(seconds=60)
CACHE_TIME = timedelta(seconds=5)
LIFE = timedelta(seconds=100)

either = st.sampled_from([0, 1])
spells = st.sampled_from([0.05, 2.0, 20.0, 61.0, 85.0, 94.0, 100.0, 400.0])
faults = st.sampled_from(
    [
        NotSent("x"),
        Ambiguous("x"),
        Ambiguous("x", unreadable=True),
        Lost(),
        ClientRefused("x"),
        RateLimited("x", retry_after=timedelta(seconds=5)),
        RefusedWithoutCode("x"),
        OtherRefusal("x"),
    ]
)


class LifeOfAGrant(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        logging.disable()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        loop = self.runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        self.house = House(VirtualClock(loop), rotation=Rotation.STRICT)
        self.house.server.life = LIFE
        self.house.grants.watch = self.see
        self.replicas = [self.house.replica(), self.house.replica()]
        self.vault = Vault(self.house.keyring, self.house.policy, lambda: 0.0)
        self.generation = 0
        self.revoked_at: datetime | None = None
        self.silences: list[tuple[int, Silence]] = []
        self.asking: list[asyncio.Task[None]] = []
        self.imported: list[str] = []

    def see(self, grant: Grant) -> None:
        assert grant.generation - self.generation in {0, 1}, "a generation was skipped or went back"
        self.generation = grant.generation

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @property
    def row(self) -> Grant | None:
        return self.house.grants.peek(ALICE)

    @property
    def exists(self) -> bool:
        return self.row is not None and self.row.exists

    def stored_refresh_token(self) -> str | None:
        row = self.row
        return None if row is None or row.refresh_sealed is None else self.vault.open_refresh(row)

    async def judge(self, asking: Coroutine[Any, Any, Handout], rejected: str | None = None) -> Handout | None:
        """What a caller got: a token that works at this very moment, or a problem."""
        known = self.revocation_is_known()
        try:
            handout = await asking
        except BrokerError:
            return None
        assert is_usable(handout.token, self.house.clock.now()), "a token that has ended was handed out"
        assert handout.token.value != rejected, "a rejected token was handed out again"
        assert not (known and self.revocation_is_known()), "a token of a revoked grant was handed out"
        return handout

    def revocation_is_known(self) -> bool:
        """Whether every replica must have heard of it; one that cannot ask goes on with what it knows."""
        if self.revoked_at is None or self.house.grants.away:
            return False
        return self.house.clock.now() - self.revoked_at >= CACHE_TIME

    # What callers do.

    @initialize(who=either)
    def begin(self, who: int) -> None:
        self.import_(who)

    @rule(seconds=spells, who=either)
    def ask(self, seconds: float, who: int) -> None:
        self.run(asyncio.sleep(seconds))
        ended = self.row is not None and self.row.state is not GrantState.CONNECTED
        quiet = not self.silences and not self.asking
        before = len(self.house.server.calls)
        self.run(self.judge(self.replicas[who].ask(ALICE, REVOCABLE)))
        assert not (ended and quiet) or len(self.house.server.calls) == before, "a dead grant cost a request"

    @rule(seconds=spells)
    def ask_everywhere_at_once(self, seconds: float) -> None:
        async def all_of_them() -> None:
            await asyncio.sleep(seconds)
            await asyncio.gather(*(self.judge(one.ask(ALICE, REVOCABLE)) for one in self.replicas * 3))

        self.run(all_of_them())

    @precondition(lambda self: self.exists)
    @rule(who=either)
    def reject(self, who: int) -> None:
        token = self.vault.open_access(self.row) if self.row else None
        if token is not None:
            self.run(self.judge(self.replicas[who].reject(token.value, ALICE, REVOCABLE), rejected=token.value))

    # What users and operators do.

    @rule(who=either)
    def connect(self, who: int) -> None:
        async def trip() -> None:
            request = AuthorizationRequest(b"ticket", ALICE, "crm", None, self.house.clock.now() + HOUR)
            await self.house.requests.add(request)
            code = self.house.server.code()
            await self.replicas[who].exchange.redeem(REVOCABLE, request, code, REDIRECT_URI)
            self.revoked_at = None
            assert await self.judge(self.replicas[who].ask(ALICE, REVOCABLE)), "a new login is of no use"

        try:
            self.run(trip())
        except BrokerError:
            return

    @rule(who=either)
    def import_(self, who: int) -> None:
        self.imported.append(self.run(self.house.import_(self.replicas[who], life=LIFE)))
        self.revoked_at = None

    @precondition(lambda self: self.imported)
    @rule(who=either, which=st.integers(min_value=0))
    def import_again(self, who: int, which: int) -> None:
        before = self.row
        token = self.imported[which % len(self.imported)]
        importing = self.replicas[who].broker.import_(
            REVOCABLE, ALICE, refresh_token=token, access_token="old", expires_in=HOUR, scope=None
        )
        _, created = self.run(importing)
        assert not created
        assert self.row == before, "a repeated import restored something spent"

    @precondition(lambda self: self.exists)
    @rule(who=either)
    def revoke(self, who: int) -> None:
        if self.row is not None and self.row.state is not GrantState.REVOKED:
            self.revoked_at = self.house.clock.now()
        self.run(self.replicas[who].broker.revoke(REVOCABLE, ALICE))
        assert self.run(self.judge(self.replicas[who].ask(ALICE, REVOCABLE))) is None, (
            "still served where it was revoked"
        )

    @precondition(lambda self: self.stored_refresh_token())
    @rule()
    def the_provider_ends_it(self) -> None:
        self.house.server.end(self.stored_refresh_token() or "")

    # What goes wrong.

    @rule(answers=st.lists(faults, min_size=1, max_size=3))
    def faults_ahead(self, answers: list[Any]) -> None:
        self.house.server.script(*answers)

    @precondition(lambda self: len(self.silences) < 2)
    @rule(who=either, acts_late=st.booleans(), rejecting=st.booleans(), seconds=spells)
    def a_process_is_paused_during_its_renewal(
        self, who: int, acts_late: bool, rejecting: bool, seconds: float
    ) -> None:
        """Its request is on its way there or its answer on its way back; everybody else goes on."""

        async def pause() -> None:
            row, server, replica = self.row, self.house.server, self.replicas[who]
            silence, server.acts_late = server.fall_silent(), acts_late
            token = self.vault.open_access(row) if row is not None and rejecting else None
            asking = replica.ask(ALICE, REVOCABLE) if token is None else replica.reject(token.value, ALICE, REVOCABLE)
            self.asking.append(asyncio.create_task(self.sit_through(asking, token.value if token else None)))
            await asyncio.sleep(0.01)
            server.speak()
            server.acts_late = False
            if silence.arrived.is_set():
                self.silences.append((who, silence))
                await asyncio.sleep(seconds)
                await self.judge(self.replicas[1 - who].ask(ALICE, REVOCABLE))

        self.run(pause())

    async def sit_through(self, asking: Coroutine[Any, Any, Handout], rejected: str | None) -> None:
        await self.judge(asking, rejected)

    @precondition(lambda self: self.silences)
    @rule(which=st.integers(min_value=0))
    def the_paused_process_goes_on(self, which: int) -> None:
        self.silences.pop(which % len(self.silences))[1].release()
        self.run(asyncio.sleep(0.5))

    @rule(who=either)
    def a_process_dies(self, who: int) -> None:
        """Whatever it was doing it never ends; another starts on the same disk."""
        dead = self.replicas[who]
        dead.die()
        self.silences = [(whose, silence) for whose, silence in self.silences if whose != who]
        self.replicas[who] = self.house.replica(spool=dead.spool)
        self.run(self.replay())

    async def replay(self) -> None:
        """What every process does by itself now and then."""
        for replica in self.replicas:
            try:
                await replica.recovery.replay()
            except StoreUnavailable:
                return

    @rule(
        who=either, before=spells, steps=st.integers(0, 12), seconds=st.sampled_from([0.05, 2.0, 20.0, 130.0, 4000.0])
    )
    def the_database_goes_away_for_a_while(self, who: int, before: float, steps: int, seconds: float) -> None:
        """In the midst of whatever comes."""

        async def outage() -> None:
            await asyncio.sleep(before)
            asking = asyncio.create_task(self.judge(self.replicas[who].ask(ALICE, REVOCABLE)))
            for _ in range(steps):
                await asyncio.sleep(0)
            self.house.grants.away = True
            for _ in range(2):
                await asyncio.sleep(seconds / 2)
                await self.judge(self.replicas[1 - who].ask(ALICE, REVOCABLE))
            self.house.grants.away = False
            await asyncio.sleep(2.5)
            await self.replay()
            await asking

        self.run(outage())

    @rule(
        who=either,
        spells=st.lists(st.sampled_from([2.0, 61.0, 94.0, 100.0]), min_size=1, max_size=3),
        dies=st.booleans(),
    )
    def the_database_takes_no_answers_for_long(self, who: int, spells: list[float], dies: bool) -> None:
        """As when its disk is full. Whoever holds an answer may be gone before there is room for it."""

        async def outage() -> None:
            self.house.grants.away_for = {"save", "connect"}
            for seconds in spells:
                await asyncio.sleep(seconds)
                await self.judge(self.replicas[who].ask(ALICE, REVOCABLE))
                await self.judge(self.replicas[1 - who].ask(ALICE, REVOCABLE))
            if dies:
                self.replicas[who].die()
                self.silences = [(whose, silence) for whose, silence in self.silences if whose != who]
                self.replicas[who] = self.house.replica(spool=self.replicas[who].spool)
            self.house.grants.away_for = set()
            await asyncio.sleep(2.5)
            await self.replay()

        self.run(outage())

    # What must hold.

    @invariant()
    def every_caller_was_treated_well(self) -> None:
        for task in [task for task in self.asking if task.done()]:
            self.asking.remove(task)
            task.result()

    @invariant()
    def no_refresh_token_is_redeemed_over_another_redemption(self) -> None:
        calls = [call for call in self.house.server.calls if call.kind == "refresh"]
        for token in {call.token for call in calls}:
            for earlier, later in itertools.pairwise(call for call in calls if call.token == token):
                if _may_have_spent(earlier):
                    assert later.at >= earlier.at + LEASE_AND_TAKEOVER, "redeemed over an unfinished attempt"
                if isinstance(earlier.result, TokenAnswer) and earlier.ended_at is not None:
                    assert later.at <= earlier.ended_at, "redeemed again though its answer had arrived"

    @invariant()
    def no_answer_that_arrived_is_dropped(self) -> None:
        stored = self.stored_refresh_token()
        for call in self.house.server.calls:
            arrived = call.kind == "refresh" and isinstance(call.result, TokenAnswer)
            if arrived and call.token == stored and self.row is not None:
                assert self.row.state is GrantState.REVOKED, "the refresh token in the row is spent"

    @invariant()
    def nobody_is_sent_to_the_provider_without_need(self) -> None:
        if self.row is not None and self.row.state is GrantState.REAUTHORIZATION_REQUIRED:
            assert self.stored_refresh_token() not in self.house.server.good, "declared dead though it is not"

    def teardown(self) -> None:
        try:
            self.run(self.when_all_is_well_again())
        finally:
            self.runner.close()
            logging.disable(logging.NOTSET)

    async def when_all_is_well_again(self) -> None:
        """Every pause is over, every token has ended, every wait is behind."""
        self.house.server.forget_script()
        for _, silence in self.silences:
            silence.release()
        await asyncio.sleep(2 * 3600)
        self.no_answer_that_arrived_is_dropped()
        row, good = self.row, self.stored_refresh_token() in self.house.server.good
        if row is None or not row.exists or row.state is GrantState.REVOKED:
            return
        for replica in self.replicas:
            try:
                handout = await replica.ask(ALICE, REVOCABLE)
            except ReauthorizationRequired:
                assert not good
            else:
                assert good
                assert is_usable(handout.token, self.house.clock.now())


def _may_have_spent(call: Call) -> bool:
    return call.result is None or isinstance(call.result, TokenAnswer | Ambiguous)


@pytest.mark.parametrize("lives", [60, pytest.param(1000, marks=pytest.mark.crash)])
def test_whatever_happens_in_the_life_of_a_grant_what_must_hold_holds(lives: int) -> None:
    told = settings(
        max_examples=lives,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(LifeOfAGrant, settings=told)
