"""What the way in may call: the core's doors, handed over as one value."""

from dataclasses import dataclass

from service.core.access.administration import Administration
from service.core.access.rate_limit import RateLimiter
from service.core.audit import Audit
from service.core.audit_store import AuditStore
from service.core.authorization import Authorization
from service.core.broker import TokenBroker
from service.core.clock import Clock
from service.core.condition.health import Health
from service.core.directory import Directory
from service.core.lane import Lane
from service.core.ports import GrantStore


@dataclass(frozen=True, slots=True)
class Services:
    """Made by the container, used by the routes. `public_url` has no trailing slash."""

    broker: TokenBroker
    directory: Directory
    authorization: Authorization
    grants: GrantStore
    health: Health
    clock: Clock
    administration: Administration
    limiter: RateLimiter
    audit: Audit
    audit_store: AuditStore
    lane: Lane
    public_url: str
