"""The core as `service.container` builds it, over stores in memory: as many replicas of it as a test likes."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, fields
from datetime import timedelta

from service.core.assembly import Core, Ports, assemble
from service.core.audit import Audit
from service.core.authorization import Authorization
from service.core.clock import Clock
from service.core.condition.shutdown import Shutdown
from service.core.condition.skew import ClockSkew
from service.core.directory import Directory
from service.core.handout import Handout
from service.core.model import (
    COMPANY,
    AccessToken,
    Application,
    Grant,
    GrantId,
    GrantType,
    TokenAnswer,
    WaitingAnswer,
)
from service.core.policy import Policy
from service.core.records import AuthorizationRequest
from service.core.sealing.vault import Vault, application_place
from tests.support.fake_server import FakeAuthorizationServer, Rotation, Silence
from tests.support.memory_audit import MemoryAuditStore
from tests.support.memory_ports import MemoryEscrow, MemoryKeyring, MemoryTokenCache
from tests.support.memory_stores import (
    MemoryAuthorizationStore,
    MemoryDirectoryStore,
    MemoryGrantStore,
    MemoryRenewalQueue,
)
from tests.support.mortal import Life
from tests.support.tally import Tally
from tests.support.virtual_time import VirtualClock

ALICE = GrantId("versature", "alice")
BOB = GrantId("versature", "bob")
THE_COMPANY = GrantId("company", COMPANY)
HOUR = timedelta(hours=1)
DRAIN = timedelta(seconds=15)
REDIRECT_URI = "http://127.0.0.1:8000/oauth/callback"


def application(
    name: str,
    *grant_types: GrantType,
    client_id: str = "",
    revocation_url: str | None = None,
    oauth_scope: str | None = None,
    pkce: bool = False,
) -> Application:
    """A registration at the fake provider whose secret is `secret of {name}`."""
    return Application(
        name=name,
        client_id=client_id or f"id-of-{name}",
        sealed_secret=MemoryKeyring().seal(f"secret of {name}", application_place(name)),
        grant_types=frozenset(grant_types or GrantType),
        token_url="https://provider.example/api/oauth/token/",
        authorize_url="https://provider.example/api/oauth/authorize/",
        revocation_url=revocation_url,
        oauth_scope=oauth_scope,
        pkce=pkce,
    )


VERSATURE = application("versature", GrantType.AUTHORIZATION_CODE)
REVOCABLE = application("versature", revocation_url="https://provider.example/api/oauth/revoke/")
COMPANYS = application("company", GrantType.CLIENT_CREDENTIALS)


@dataclass(frozen=True, slots=True)
class Replica(Core):
    """One process, as far as the core goes."""

    directory: Directory
    authorization: Authorization
    audit: Audit
    spool: MemoryEscrow
    shutdown: Shutdown
    life: Life

    def die(self) -> None:
        """As by kill -9: whatever it was doing, it never goes on."""
        self.life.over = True

    async def ask(
        self, grant: GrantId = ALICE, app: Application = VERSATURE, min_ttl: timedelta | None = None
    ) -> Handout:
        return await self.broker.get(app, grant, min_ttl)

    async def reject(self, access_token: str, grant: GrantId = ALICE, app: Application = VERSATURE) -> Handout:
        return await self.broker.rejected(app, grant, access_token)


@dataclass(slots=True)
class House:
    """What all replicas share. `jitter` is the same for everybody, so that instants can be foretold."""

    clock: VirtualClock
    policy: Policy = field(default_factory=Policy)
    rotation: Rotation = Rotation.ON
    jitter: float = 0.0
    server: FakeAuthorizationServer = field(init=False)
    grants: MemoryGrantStore = field(init=False)
    requests: MemoryAuthorizationStore = field(init=False)
    rows: MemoryDirectoryStore = field(init=False, default_factory=MemoryDirectoryStore)
    keyring: MemoryKeyring = field(init=False, default_factory=MemoryKeyring)
    shared: MemoryTokenCache = field(init=False)
    copy: MemoryEscrow = field(init=False, default_factory=MemoryEscrow)
    queue: MemoryRenewalQueue = field(init=False)
    audit: MemoryAuditStore = field(init=False, default_factory=MemoryAuditStore)
    on_the_lane: int = 0
    lost: Counter[str] = field(init=False, default_factory=Counter)
    tally: Tally = field(init=False, default_factory=Tally)

    def __post_init__(self) -> None:
        self.server = FakeAuthorizationServer(self.clock, rotation=self.rotation)
        self.grants = MemoryGrantStore(self.clock)
        self.queue = MemoryRenewalQueue(self.grants)
        self.requests = MemoryAuthorizationStore(self.grants)
        self.shared = MemoryTokenCache(self.clock)

    def replica(
        self,
        *,
        settings: Application | None = None,
        admin_key: str | None = None,
        clock: Clock | None = None,
        spool: MemoryEscrow | None = None,
    ) -> Replica:
        """A fresh process; *settings* is the application that its settings define, *clock* its own idea of time.

        *spool* is the disk it starts on: a new one, or that of a process which died there.
        """
        clock, spool, life = clock or self.clock, spool or MemoryEscrow(), Life()
        shutdown = Shutdown(DRAIN, clock)
        ports = Ports(
            grants=life.line_to(self.grants),
            queue=life.line_to(self.queue),
            requests=life.line_to(self.requests),
            server=life.line_to(self.server),
            keyring=self.keyring,
            shared=life.line_to(self.shared),
            spool=life.line_to(spool),
            copy=life.line_to(self.copy),
        )
        directory = Directory(self.rows, clock, self.policy, default_application=settings, admin_key=admin_key)
        audit = Audit(self.audit, clock)
        core = assemble(
            ports,
            directory,
            audit,
            clock,
            self.policy,
            lambda: self.jitter,
            self,
            shutdown,
            skew=ClockSkew(),
            observer=self.tally,
        )
        authorization = Authorization(
            ports.requests,
            directory,
            core.exchange,
            self.keyring,
            audit,
            clock,
            self.policy,
            redirect_uri=REDIRECT_URI,
            return_origins=["https://crm.example"],
        )
        parts = {part.name: getattr(core, part.name) for part in fields(core)}
        parts |= {"directory": directory, "authorization": authorization, "audit": audit}
        return Replica(**parts, spool=spool, shutdown=shutdown, life=life)

    def count_lost(self, application: str) -> None:
        self.lost[application] += 1

    def count_lane(self, answers: int) -> None:
        self.on_the_lane += answers

    async def import_(self, replica: Replica, grant: GrantId = ALICE, *, life: timedelta = HOUR) -> str:
        """Give *grant* the tokens of a login made elsewhere; returns its refresh token."""
        refresh_token = self.server.log_in()
        await replica.broker.import_(
            VERSATURE,
            grant,
            refresh_token=refresh_token,
            access_token=f"access-beside-{refresh_token}",
            expires_in=life,
            scope="Office Manager",
        )
        return refresh_token

    async def connect(self, replica: Replica, code: str | None = None) -> None:
        """Give alice's grant what a login in the browser brings."""
        request = AuthorizationRequest(b"ticket", ALICE, "crm", None, self.clock.now() + HOUR)
        await self.requests.add(request)
        await replica.exchange.redeem(VERSATURE, request, code or self.server.code(), REDIRECT_URI)

    async def held_answer(
        self, replica: Replica, app: Application = VERSATURE
    ) -> tuple[asyncio.Task[Handout], Silence]:
        """Let alice's token end and a renewal be answered, with the answer still on its way."""
        await self.import_(replica)
        await asyncio.sleep(3600)
        silence = self.server.fall_silent()
        asking = asyncio.create_task(replica.ask(app=app))
        await silence.arrived.wait()
        self.server.speak()
        return asking, silence

    def answer(
        self,
        grant: GrantId = ALICE,
        *,
        generation: int = 1,
        attempt_id: str = "an attempt",
        ticket_digest: bytes | None = None,
    ) -> WaitingAnswer:
        """What a renewal of *generation*, or a login, has just brought; the provider knows its refresh token."""
        now, vault = self.clock.now(), Vault(self.keyring, self.policy, lambda: self.jitter)
        refresh_token = self.server.log_in()
        brought = TokenAnswer(f"access-beside-{refresh_token}", refresh_token, "Office Manager", HOUR, now)
        access = vault.date(brought, generation=generation + 1, scope=brought.scope)
        tokens = vault.seal(
            grant, VERSATURE, access=access, refresh_token=refresh_token, scope=brought.scope, at=brought.sent_at
        )
        row = self.grants.peek(grant)
        return WaitingAnswer(grant, generation, attempt_id, now, tokens, row.issued_at if row else None, ticket_digest)

    async def row(self, grant: GrantId = ALICE) -> Grant:
        """The row as it stands."""
        found = await self.grants.get(grant)
        assert found is not None
        return found

    async def shared_token(self) -> AccessToken | None:
        """Alice's token in the shared cache, opened."""
        cached = await self.shared.get(ALICE)
        vault = Vault(self.keyring, self.policy, lambda: self.jitter)
        return vault.open_cached(ALICE, cached) if cached is not None else None

    async def stored(self, grant: GrantId = ALICE) -> tuple[AccessToken | None, str | None]:
        """The tokens in the row, opened."""
        row, vault = await self.row(grant), Vault(self.keyring, self.policy, lambda: self.jitter)
        return vault.open_access(row), vault.open_refresh(row) if row.refresh_sealed else None
