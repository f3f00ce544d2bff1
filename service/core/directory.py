"""Who is calling, what they may do, and which application serves a request."""

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.core.access.directory_store import DirectoryStore
from service.core.clock import Clock
from service.core.condition.health import READY, PartHealth, Readiness
from service.core.errors import ApplicationNotFound, InvalidApiKey, NotAllowed, ResourceNotFound, StoreUnavailable
from service.core.model import Application, Caller, GrantType, Scope
from service.core.names import matches
from service.core.policy import Policy
from service.core.records import ApiKey, DirectoryRows
from service.core.sealing.digests import secret_digest
from service.core.singleflight import Flights, wait_for_flight

ADMIN = Caller("admin", frozenset({Scope.ADMIN, Scope.GRANTS}), users=("*",), applications=("*",))


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller and the key it came with."""

    caller: Caller
    key: ApiKey


class Directory:
    """Callers and applications as the database has them, read whole and re-read when their version moves.

    What was read stays in force while the database is away; before the first read nobody is known.
    """

    def __init__(
        self,
        store: DirectoryStore,
        clock: Clock,
        policy: Policy,
        *,
        default_application: Application | None,
        admin_key: str | None,
    ) -> None:
        self._store, self._clock, self._policy = store, clock, policy
        self._default_application = default_application
        self._fixed = [Identity(ADMIN, ApiKey(secret_digest(admin_key), ADMIN.name))] if admin_key else []
        self.version: int | None = None
        """Moves whenever callers, keys or applications change; None before the first read."""
        self._checked_at: datetime | None = None
        self.good_until = 0.0
        """Until when (seconds since 1970) nobody needs to ask whether anything changed."""
        self._identities: dict[bytes, Identity] = {}
        self._callers: list[Caller] = []
        self._keys: list[ApiKey] = []
        self._applications: dict[str, Application] = {}
        self._defaults: dict[GrantType, str] = {}
        self._checks: Flights[None, None] = Flights()

    @property
    def is_loaded(self) -> bool:
        return self.version is not None

    async def health(self) -> PartHealth:
        """Not ready before the first read: another replica knows its callers."""
        return READY if self.is_loaded else PartHealth(Readiness.NOT_READY, "the callers have not been read yet")

    @property
    def applications(self) -> list[Application]:
        """The one from the settings first, then the stored ones in the order they were added."""
        return list(self._applications.values())

    @property
    def callers(self) -> list[Caller]:
        """The stored callers, by name."""
        return self._callers

    def caller(self, name: str) -> Caller:
        """The stored caller of that name.

        Raises:
            ResourceNotFound: there is none.
        """
        found = next((caller for caller in self._callers if caller.name == name), None)
        if found is None:
            raise ResourceNotFound("There is no caller of this name.")
        return found

    def keys_of(self, name: str) -> list[ApiKey]:
        """The stored keys of the caller *name*, expired ones too, in the order they were made."""
        keys = [key for key in self._keys if key.caller == name]
        return sorted(keys, key=lambda key: (key.created_at is not None, key.created_at, key.id))

    def is_from_settings(self, application: str) -> bool:
        """Whether the settings define the application of that name; only they can change it."""
        return self._default_application is not None and self._default_application.name == application

    async def check(self) -> None:
        """Ask the database whether anything changed, and read it anew if so. Concurrent checks cost one query.

        Raises:
            StoreUnavailable: the database is away or takes too long; what was read before stays in force.
        """
        task, _ = self._checks.join(None, self._check)
        try:
            await wait_for_flight(task, self._policy.wait)
        except TimeoutError:
            raise StoreUnavailable from None

    async def catch_up(self) -> None:
        """Know of every change that was made before this was called.

        Raises:
            StoreUnavailable: what was read before stays in force.
        """
        if self._checks.running(None):
            await self.check()  # it may have looked before the change
        await self.check()

    async def _check(self) -> None:
        asked_at = self._clock.now()
        if await self._store.version() != self.version:
            self._take_in(await self._store.load())
        self._checked_at = asked_at
        self.good_until = (asked_at + self._policy.local_cache).timestamp()

    def _take_in(self, rows: DirectoryRows) -> None:
        callers = {caller.name: caller for caller in rows.callers}
        identities = [Identity(callers[key.caller], key) for key in rows.keys if key.caller in callers]
        applications = {application.name: application for application in rows.applications}
        if self._default_application is not None:
            applications = {self._default_application.name: self._default_application, **applications}
            applications[self._default_application.name] = self._default_application
        self._identities = {identity.key.digest: identity for identity in [*identities, *self._fixed]}
        self._callers, self._keys = list(rows.callers), list(rows.keys)
        self._applications, self._defaults = applications, rows.defaults
        self.version = rows.version

    async def _refresh(self) -> None:
        """Check if the last answer is older than promised; go on with it when the database is away."""
        age_limit = self._policy.local_cache
        # A clock that was set back makes ages negative: then nothing is known about them.
        if self._checked_at is not None and timedelta(0) <= self._clock.now() - self._checked_at < age_limit:
            return
        try:
            await self.check()
        except StoreUnavailable:
            if not self.is_loaded:
                raise StoreUnavailable("The callers have not been read yet.") from None

    async def identify(self, key: str) -> Identity:
        """Whose key this is.

        Raises:
            InvalidApiKey: it is nobody's, or has expired.
            StoreUnavailable: it is unknown here, and whether it is new cannot be asked.
        """
        digest = secret_digest(key)
        await self._refresh()
        identity = self._identities.get(digest)
        if identity is None:
            await self.catch_up()
            identity = self._identities.get(digest)
        if identity is None or not hmac.compare_digest(identity.key.digest, digest):
            raise InvalidApiKey("This API key is not known here.")
        if not identity.key.is_live(self._clock.now()):
            raise InvalidApiKey("This API key has expired.")
        return identity

    def is_current(self, identity: Identity) -> bool:
        """Whether nothing was read anew since *identity* was told: it and all that was judged by it still hold."""
        return self._identities.get(identity.key.digest) is identity

    def application(self, name: str) -> Application:
        """The application of that name.

        Raises:
            ApplicationNotFound: there is none.
        """
        application = self._applications.get(name)
        if application is None:
            raise ApplicationNotFound("There is no application of this name.")
        return application

    def application_for(self, name: str | None, grant_type: GrantType) -> Application:
        """The named application, or the default one for *grant_type*: as chosen, else the first that allows it.

        Raises:
            ApplicationNotFound: there is none, or it does not allow *grant_type*.
        """
        if name is None:
            name = self._default_name(grant_type)
        application = self.application(name)
        if grant_type not in application.grant_types:
            raise ApplicationNotFound(f"This application does not allow the grant type {grant_type}.")
        return application

    def default_name(self, grant_type: GrantType) -> str | None:
        """The name of the application that serves requests which name none."""
        chosen = self._defaults.get(grant_type)
        if chosen in self._applications and grant_type in self._applications[chosen].grant_types:
            return chosen
        return next((app.name for app in self._applications.values() if grant_type in app.grant_types), None)

    def _default_name(self, grant_type: GrantType) -> str:
        name = self.default_name(grant_type)
        if name is None:
            raise ApplicationNotFound(f"No application allows the grant type {grant_type}.")
        return name


def require_scope(caller: Caller, scope: Scope) -> None:
    """Let pass who was given *scope*.

    Raises:
        NotAllowed: the caller was not.
    """
    if scope not in caller.scopes:
        raise NotAllowed(f"This key has no scope {scope}.")


def may_ask_for(caller: Caller, user: str, application: str | None) -> bool:
    """Whether *caller*'s patterns cover the user and, if given, the application. Nothing is allowed by default."""
    if not any(matches(pattern, user) for pattern in caller.users):
        return False
    return application is None or any(matches(pattern, application) for pattern in caller.applications)
