"""Decisions about callers and applications, the same for the command line and for the HTTP API."""

import contextlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from service.core.access.directory_store import DirectoryStore
from service.core.access.registration import (
    Registration,
    RegistrationChanges,
    apply_changes,
    revocable_at_home,
    seal_registration,
)
from service.core.audit import Audit
from service.core.audit_store import Action
from service.core.clock import Clock
from service.core.directory import ADMIN, Directory
from service.core.errors import ApplicationNotFound, Conflict, InvalidRequest, ResourceNotFound, StoreUnavailable
from service.core.model import Application, Caller, GrantType, Scope
from service.core.names import check_name, check_pattern
from service.core.records import ApiKey, KeyAddition
from service.core.sealing.digests import secret_digest
from service.core.sealing.vault import Vault

KEY_PREFIX = "vtb_"
LIVE_KEYS = 2
"""How many keys of one caller work at once: the old one and the new one, while the caller changes over."""

LONGEST_KEY_LIFE = timedelta(days=3650)
MOST_PATTERNS = 100

_NO_CALLER = "There is no caller of this name."
_SETTINGS_OWN = "This name belongs to the application that the settings define."


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key: what is stored of it, and the key itself, which is shown this once."""

    record: ApiKey
    secret: str = field(repr=False)


class Administration:
    """Adds, changes and removes callers and applications; this process knows of it at once."""

    def __init__(
        self,
        store: DirectoryStore,
        vault: Vault,
        directory: Directory,
        audit: Audit,
        clock: Clock,
        *,
        reserved: Sequence[str],
        base_url: str | None = None,
    ) -> None:
        """*reserved* are names for applications that the settings define; *base_url* is theirs who name none."""
        self._store, self._vault, self._directory = store, vault, directory
        self._audit, self._clock = audit, clock
        self._reserved, self._base_url = frozenset(reserved), base_url

    async def add_application(self, registration: Registration) -> Application:
        """Store a new application.

        Raises:
            Conflict: the name is taken.
            InvalidRequest: see `seal_registration` and `revocable_at_home`.
        """
        registration = replace(registration, base_url=registration.base_url or self._base_url)
        application = revocable_at_home(seal_registration(registration, self._vault))
        if application.name in self._reserved:
            raise Conflict(_SETTINGS_OWN)
        if not await self._store.add_application(application):
            raise Conflict("An application of this name exists.")
        await self._done(Action.APPLICATION_ADDED, application.name)
        return application

    async def change_application(self, name: str, changes: RegistrationChanges) -> Application:
        """Change a stored application; a grant that was issued to another client id or token URL is not rebound.

        Raises:
            ApplicationNotFound: there is none of this name.
            Conflict: the settings define it.
            InvalidRequest: see `apply_changes`.
        """
        if self._directory.is_from_settings(name):
            raise Conflict(_SETTINGS_OWN)
        changed = await self._store.change_application(name, lambda app: apply_changes(app, changes, self._vault))
        if changed is None:
            raise ApplicationNotFound("There is no stored application of this name.")
        await self._done(Action.APPLICATION_CHANGED, name)
        return changed

    async def remove_application(self, name: str) -> None:
        """Forget the registration; its grants stay, and work again when it returns.

        Raises:
            ApplicationNotFound: there is none of this name.
            Conflict: the settings define it.
        """
        if not await self._store.remove_application(name):
            if self._directory.is_from_settings(name):
                raise Conflict(_SETTINGS_OWN)
            raise ApplicationNotFound("There is no stored application of this name.")
        await self._done(Action.APPLICATION_REMOVED, name)

    async def set_default(self, name: str, grant_types: frozenset[GrantType] | None = None) -> None:
        """Let *name* serve the requests that name no application, for each of *grant_types* or all that it allows.

        Raises:
            ApplicationNotFound: there is none of this name, stored or from the settings.
            Conflict: it does not allow one of *grant_types*.
        """
        await self._directory.catch_up()
        application = self._directory.application(name)
        for grant_type in sorted(grant_types or ()):
            if grant_type not in application.grant_types:
                raise Conflict(f"This application does not allow the grant type {grant_type}.")
        for grant_type in sorted(grant_types or application.grant_types):
            await self._store.set_default(grant_type, name)
        await self._done(Action.DEFAULT_SET, name)

    async def add_caller(self, caller: Caller, key: str | None = None) -> IssuedKey:
        """Add *caller* and return its only key, a new one unless *key* is given.

        Raises:
            Conflict: the name is taken.
            InvalidRequest: the name or a pattern is malformed, or a list is empty.
        """
        check_name(caller.name)
        _check_rights(caller)
        if caller.name == ADMIN.name:
            raise Conflict(f"The name {ADMIN.name} belongs to the key from the settings.")
        issued = self._issue(caller.name, key=key)
        if not await self._store.add_caller(caller, issued.record):
            raise Conflict("A caller of this name exists.")
        await self._done(Action.CALLER_ADDED, caller.name)
        return issued

    async def change_caller(
        self,
        name: str,
        *,
        scopes: Iterable[Scope] | None = None,
        users: Iterable[str] | None = None,
        applications: Iterable[str] | None = None,
    ) -> Caller:
        """Give a caller other rights; what is None stays. Its keys stay too.

        Raises:
            ResourceNotFound: there is no such caller.
            InvalidRequest: a pattern is malformed, or a list would be empty.
        """
        given = {
            "scopes": None if scopes is None else frozenset(scopes),
            "users": None if users is None else _check_patterns(tuple(users)),
            "applications": None if applications is None else _check_patterns(tuple(applications)),
        }
        changes = {right: value for right, value in given.items() if value is not None}

        def change(caller: Caller) -> Caller:
            return _check_rights(replace(caller, **changes))  # type: ignore[arg-type]  # each is of its field's type

        changed = await self._store.change_caller(name, change)
        if changed is None:
            raise ResourceNotFound(_NO_CALLER)
        await self._done(Action.CALLER_CHANGED, name)
        return changed

    async def remove_caller(self, name: str) -> None:
        """Forget the caller and its keys.

        Raises:
            ResourceNotFound: there is no such caller.
        """
        if not await self._store.remove_caller(name):
            raise ResourceNotFound(_NO_CALLER)
        await self._done(Action.CALLER_REMOVED, name)

    async def add_key(self, name: str, *, expires_at: datetime | None = None) -> IssuedKey:
        """Give the caller one more key, so that it can change over without a gap.

        Raises:
            ResourceNotFound: there is no such caller.
            Conflict: it has `LIVE_KEYS` already that have not expired.
            InvalidRequest: *expires_at* has passed, or is later than any key may live.
        """
        now = self._clock.now()
        if expires_at is not None and not now < expires_at <= now + LONGEST_KEY_LIFE:
            raise InvalidRequest(f"A key expires in the future, within {LONGEST_KEY_LIFE.days} days.")
        issued = self._issue(name, expires_at=expires_at)
        match await self._store.add_key(issued.record, now=now, most=LIVE_KEYS):
            case KeyAddition.NO_CALLER:
                raise ResourceNotFound(_NO_CALLER)
            case KeyAddition.TOO_MANY:
                raise Conflict(f"This caller has {LIVE_KEYS} keys already. Remove the one that is no longer used.")
        await self._done(Action.KEY_ADDED, f"{name} {issued.record.id}")
        return issued

    async def remove_key(self, name: str, key_id: str) -> None:
        """End one key of the caller, even its last.

        Raises:
            ResourceNotFound: there is no such caller, or it has no such key.
        """
        if not await self._store.remove_key(name, key_id):
            raise ResourceNotFound("This caller has no key of this id, or does not exist.")
        await self._done(Action.KEY_REMOVED, f"{name} {key_id}")

    async def rotate_key(self, name: str) -> IssuedKey:
        """Replace all keys of the caller by a new one.

        Raises:
            ResourceNotFound: there is no such caller.
        """
        issued = self._issue(name)
        if not await self._store.replace_keys(name, issued.record):
            raise ResourceNotFound(_NO_CALLER)
        await self._done(Action.KEY_ADDED, f"{name} {issued.record.id}, instead of all others")
        return issued

    def _issue(self, caller: str, *, key: str | None = None, expires_at: datetime | None = None) -> IssuedKey:
        secret = key or new_key()
        now, key_id = self._clock.now(), secrets.token_hex(4)
        return IssuedKey(ApiKey(secret_digest(secret), caller, expires_at, key_id, now), secret)

    async def _done(self, action: Action, subject: str) -> None:
        """The change is committed: whatever keeps this process from reading it now, it will read it in time."""
        await self._audit.note(action, subject=subject)
        with contextlib.suppress(StoreUnavailable):
            await self._directory.catch_up()


def _check_rights(caller: Caller) -> Caller:
    if not caller.scopes or not caller.applications or (not caller.users and caller.scopes != {Scope.ADMIN}):
        raise InvalidRequest("A caller needs at least one scope, one user pattern and one application pattern.")
    _check_patterns(caller.users)
    _check_patterns(caller.applications)
    return caller


def _check_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if len(patterns) > MOST_PATTERNS:
        raise InvalidRequest(f"A caller has at most {MOST_PATTERNS} patterns of each kind.")
    return tuple(check_pattern(pattern) for pattern in patterns)


def new_key() -> str:
    """An API key: 256 random bits in base64url."""
    return KEY_PREFIX + secrets.token_urlsafe(32)
