"""Puts the core together: who works with whom, over whatever ports it is given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.core.audit import Audit
from service.core.broker import TokenBroker
from service.core.caches import Caches
from service.core.clock import Clock
from service.core.condition.shutdown import Shutdown
from service.core.condition.skew import ClockSkew
from service.core.directory import Directory
from service.core.escrow.custody import Custody
from service.core.escrow.recovery import Recovery
from service.core.lane import Lane
from service.core.local_cache import LocalCache
from service.core.policy import Policy
from service.core.ports import (
    AuthorizationServer,
    AuthorizationStore,
    Escrow,
    GrantStore,
    Keyring,
    RenewalQueue,
    TokenCache,
)
from service.core.redeeming.attempts import Observer
from service.core.redeeming.breaker import Breaker
from service.core.redeeming.exchange import CodeExchange
from service.core.redeeming.redemption import Redeemer
from service.core.redeeming.refusals import RefusalGuard
from service.core.redeeming.saving import Saver
from service.core.redeeming.steps import Witness, nobody
from service.core.renewal import Renewer
from service.core.sealing.vault import Vault
from service.core.upkeep.background import BackgroundRenewer
from service.core.upkeep.errands import Errands
from service.core.upkeep.interest import Interest
from service.core.upkeep.revalidation import Confirmer, Revalidator
from service.core.upkeep.revocation import Revoker


@dataclass(frozen=True, slots=True)
class Ports:
    """The core's way out; `copy` is None where there is no second escrow."""

    grants: GrantStore
    queue: RenewalQueue
    requests: AuthorizationStore
    server: AuthorizationServer
    keyring: Keyring
    shared: TokenCache
    spool: Escrow
    copy: Escrow | None


class Counts(Protocol):
    """What the core tells to whoever counts."""

    def count_lost(self, application: str) -> None:
        """A grant of *application* was lost by us."""
        ...

    def count_lane(self, answers: int) -> None:
        """So many requests were answered on the lane."""
        ...


@dataclass(frozen=True, slots=True)
class Core:
    """One process's worth of it."""

    broker: TokenBroker
    renewer: Renewer
    saver: Saver
    breaker: Breaker
    exchange: CodeExchange
    local: LocalCache
    vault: Vault
    custody: Custody
    recovery: Recovery
    revoker: Revoker
    revalidator: Revalidator
    errands: Errands
    background: BackgroundRenewer
    lane: Lane


def assemble(
    ports: Ports,
    directory: Directory,
    audit: Audit,
    clock: Clock,
    policy: Policy,
    jitter: Callable[[], float],
    counts: Counts,
    shutdown: Shutdown,
    *,
    skew: ClockSkew,
    observer: Observer,
    witness: Witness = nobody,
) -> Core:
    """Everything that renews, saves and hands out, in one process; *observer* is told of every attempt to renew."""
    grants, queue, server, shared = ports.grants, ports.queue, ports.server, ports.shared
    vault = Vault(ports.keyring, policy, jitter)
    local, breaker, guard, errands = (
        LocalCache(policy.local_cache),
        Breaker(clock, policy),
        RefusalGuard(),
        Errands(clock),
    )
    caches = Caches(local, shared, vault, clock, witness)
    revoker = Revoker(grants, server, vault, caches, queue, directory, clock)
    custody = Custody(ports.spool, ports.copy, vault, witness)
    saver = Saver(grants, ports.requests, vault, custody, caches, revoker, clock, policy, witness)
    recovery = Recovery(grants, custody, saver, directory, shared, vault, errands, clock, policy, witness)
    limits = (breaker, guard, shutdown)
    redeemer = Redeemer(
        grants, queue, server, vault, saver, errands, *limits, clock, policy, jitter, counts.count_lost, witness
    )
    common = (errands, breaker, skew, clock, policy, jitter, witness, observer)
    renewer = Renewer(grants, redeemer, vault, caches, local, recovery, *common)
    interest = Interest(queue, clock, policy)
    lane = Lane(local, directory, audit, interest, clock, counts.count_lane)
    told = (interest, audit, clock, policy)
    broker = TokenBroker(grants, renewer, revoker, vault, caches, local, Confirmer(grants, clock), *told)
    return Core(
        broker=broker,
        renewer=renewer,
        saver=saver,
        breaker=breaker,
        exchange=CodeExchange(server, vault, ports.keyring, saver, guard, clock, policy, witness),
        local=local,
        vault=vault,
        custody=custody,
        recovery=recovery,
        revoker=revoker,
        revalidator=Revalidator(grants, directory, local, lane, clock),
        errands=errands,
        background=BackgroundRenewer(queue, renewer, directory, breaker, interest, errands, shutdown, clock, policy),
        lane=lane,
    )
