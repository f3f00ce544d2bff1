"""The rows, declared once: queries and migrations both follow from here.

Instants are integer microseconds since 1970 (UTC), because SQLite has no type for them and both databases must agree.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Text, text
from sqlalchemy.dialects import postgresql
from sqlmodel import Field, SQLModel

from service.core.records import FIRST_KEY

NAME = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""Names sort by their bytes, in SQLite as in PostgreSQL, so that pages of a listing fit together."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(instant: datetime) -> int:
    """Whole microseconds since 1970."""
    return (instant - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The instant, aware, in UTC."""
    return _EPOCH + micros * _MICROSECOND


def to_nullable(instant: datetime | None) -> int | None:
    """What a nullable column holds of *instant*."""
    return None if instant is None else to_micros(instant)


def to_instant(micros: int | None) -> datetime | None:
    """A nullable column's instant."""
    return None if micros is None else from_micros(micros)


def _partial(name: str, *columns: str, where: str) -> Index:
    """An index of the few rows that *where* lets through, in both databases."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


DOUBTFUL = "state <> 'connected' OR refresh_sealed IS NULL"
"""Every grant that may be shown as anything but connected: the few that a listing of those looks through."""


class GrantRow(SQLModel, table=True):
    """One (application, user). `attempt_id` to `lease_until` are the claim; they stay when an attempt never ended.

    `spent_digests` and `imported_digests` are 32-character digests one after another, the newest first. `renew_at` is
    when the background looks next (None: nobody waits), `entered_at` when a person last decided about this grant.
    """

    __tablename__ = "grants"
    __table_args__ = (
        _partial("ix_grants_renew_at", "application", "renew_at", where="state = 'connected' AND renew_at IS NOT NULL"),
        _partial(
            "ix_grants_renewed_at",
            "application",
            "renewed_at",
            where="state = 'connected' AND refresh_sealed IS NOT NULL",
        ),
        Index("ix_grants_census", "application", "state", "refresh_expires_at", "renew_at", "generation"),
        _partial("ix_grants_revocations", "retry_at", where="upstream_revocation = 'pending'"),
        _partial("ix_grants_doubtful", "application", "user", where=DOUBTFUL),
    )

    application: str = Field(primary_key=True, sa_type=NAME)
    user: str = Field(primary_key=True, sa_type=NAME)
    state: str = Field(sa_type=Text)
    reason: str | None = Field(default=None, sa_type=Text)
    generation: int = Field(sa_type=BigInteger)
    fingerprint: bytes = Field(sa_type=LargeBinary)
    access_sealed: bytes | None = Field(default=None, sa_type=LargeBinary)
    refresh_sealed: bytes | None = Field(default=None, sa_type=LargeBinary)
    refresh_digest: str | None = Field(default=None, sa_type=Text)
    spent_digests: str = Field(default="", sa_type=Text)
    imported_digests: str = Field(default="", sa_type=Text)
    scope: str | None = Field(default=None, sa_type=Text)
    obtained_at: int | None = Field(default=None, sa_type=BigInteger)
    renewed_at: int | None = Field(default=None, sa_type=BigInteger)
    issued_at: int | None = Field(default=None, sa_type=BigInteger)
    access_expires_at: int | None = Field(default=None, sa_type=BigInteger)
    due_at: int | None = Field(default=None, sa_type=BigInteger)
    refresh_expires_at: int | None = Field(default=None, sa_type=BigInteger)
    attempt_id: str | None = Field(default=None, sa_type=Text)
    attempt_started_at: int | None = Field(default=None, sa_type=BigInteger)
    lease_until: int | None = Field(default=None, sa_type=BigInteger)
    unfinished_generation: int | None = Field(default=None, sa_type=BigInteger)
    saved_attempt_id: str | None = Field(default=None, sa_type=Text)
    connected_attempt_id: str | None = Field(default=None, sa_type=Text)
    failures: int = Field(default=0, sa_type=BigInteger)
    last_error_code: str | None = Field(default=None, sa_type=Text)
    last_error_at: int | None = Field(default=None, sa_type=BigInteger)
    retry_at: int | None = Field(default=None, sa_type=BigInteger)
    forced_until: int | None = Field(default=None, sa_type=BigInteger)
    forced_interval: int | None = Field(default=None, sa_type=BigInteger)
    upstream_revocation: str | None = Field(default=None, sa_type=Text)
    asked_at: int | None = Field(default=None, sa_type=BigInteger)
    renew_at: int | None = Field(default=None, sa_type=BigInteger)
    refusals: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})
    refused_since: int | None = Field(default=None, sa_type=BigInteger)
    entered_at: int | None = Field(default=None, sa_type=BigInteger)


class RenewalPaceRow(SQLModel, table=True):
    """How far one application's background renewals have used up their pace, in the whole fleet."""

    __tablename__ = "renewal_paces"

    application: str = Field(primary_key=True, sa_type=Text)
    free_at: int = Field(sa_type=BigInteger)


class AuthorizationRequestRow(SQLModel, table=True):
    """One trip of one browser. `state_digest` is there only while a state of it can still be used."""

    __tablename__ = "authorization_requests"
    __table_args__ = (Index("ix_authorization_requests_expires_at", "expires_at"),)

    ticket_digest: bytes = Field(primary_key=True, sa_type=LargeBinary)
    application: str = Field(sa_type=Text)
    user: str = Field(sa_type=Text)
    caller: str = Field(sa_type=Text)
    return_to: str | None = Field(default=None, sa_type=Text)
    expires_at: int = Field(sa_type=BigInteger)
    completed_at: int | None = Field(default=None, sa_type=BigInteger)
    started_at: int | None = Field(default=None, sa_type=BigInteger)
    state_digest: bytes | None = Field(default=None, sa_column=Column(LargeBinary, unique=True))
    cookie_digest: bytes | None = Field(default=None, sa_type=LargeBinary)
    sealed_verifier: bytes | None = Field(default=None, sa_type=LargeBinary)


class ApplicationRow(SQLModel, table=True):
    """One OAuth client registration; `position` keeps the order in which they were added."""

    __tablename__ = "applications"

    name: str = Field(primary_key=True, sa_type=Text)
    position: int = Field(sa_column=Column(BigInteger, nullable=False, unique=True))
    client_id: str = Field(sa_type=Text)
    client_secret_sealed: bytes = Field(sa_type=LargeBinary)
    grant_types: str = Field(sa_type=Text)
    token_url: str = Field(sa_type=Text)
    authorize_url: str = Field(sa_type=Text)
    revocation_url: str | None = Field(default=None, sa_type=Text)
    oauth_scope: str | None = Field(default=None, sa_type=Text)
    vendor_id: str | None = Field(default=None, sa_type=Text)
    pkce: bool = Field(default=False)


class DefaultApplicationRow(SQLModel, table=True):
    """Which application was chosen to serve requests that name none."""

    __tablename__ = "default_applications"

    grant_type: str = Field(primary_key=True, sa_type=Text)
    application: str = Field(sa_type=Text)


class CallerRow(SQLModel, table=True):
    """One internal service; scopes and patterns are JSON lists."""

    __tablename__ = "callers"

    name: str = Field(primary_key=True, sa_type=Text)
    scopes: str = Field(sa_type=Text)
    users: str = Field(sa_type=Text)
    applications: str = Field(sa_type=Text)


class ApiKeyRow(SQLModel, table=True):
    """One key of one caller, as its SHA-256 digest. What a version without ids stores is the caller's only key."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_caller_id", "caller", "id", unique=True),)

    digest: bytes = Field(primary_key=True, sa_type=LargeBinary)
    caller: str = Field(sa_type=Text, index=True)
    expires_at: int | None = Field(default=None, sa_type=BigInteger)
    id: str = Field(sa_column=Column(Text, nullable=False, server_default=FIRST_KEY))
    created_at: int | None = Field(default=None, sa_type=BigInteger)


class DirectoryVersionRow(SQLModel, table=True):
    """A single row whose version moves with every change to callers, keys or applications, and never comes again."""

    __tablename__ = "directory_version"

    id: int = Field(primary_key=True)
    version: int = Field(sa_type=BigInteger)


class AuditRow(SQLModel, table=True):
    """One event, or what one process counted of one kind in one minute; `times` is absolute."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_at", "at", "id"),
        Index("ix_audit_caller", "caller", "at"),
        Index("ix_audit_user", "user", "at"),
        Index("ix_audit_action", "action", "at"),
    )

    id: str = Field(primary_key=True, sa_type=Text)
    at: int = Field(sa_type=BigInteger)
    caller: str = Field(sa_type=Text)
    action: str = Field(sa_type=Text)
    application: str | None = Field(default=None, sa_type=Text)
    user: str | None = Field(default=None, sa_type=Text)
    subject: str | None = Field(default=None, sa_type=Text)
    code: str | None = Field(default=None, sa_type=Text)
    request_id: str | None = Field(default=None, sa_type=Text)
    times: int = Field(sa_type=BigInteger)


grants = SQLModel.metadata.tables["grants"]
renewal_paces = SQLModel.metadata.tables["renewal_paces"]
authorization_requests = SQLModel.metadata.tables["authorization_requests"]
applications = SQLModel.metadata.tables["applications"]
default_applications = SQLModel.metadata.tables["default_applications"]
callers = SQLModel.metadata.tables["callers"]
api_keys = SQLModel.metadata.tables["api_keys"]
directory_version = SQLModel.metadata.tables["directory_version"]
audit = SQLModel.metadata.tables["audit"]
