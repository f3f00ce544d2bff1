"""Makes every long-lived object, starts and closes them in order."""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from service.adapters.keyring import AesKeyring
from service.adapters.migrations import migrate, schema_is_current
from service.adapters.sql_authorizations import SqlAuthorizationStore
from service.adapters.sql_database import Database
from service.adapters.sql_directory import SqlDirectoryStore
from service.adapters.sql_grants import SqlGrantStore
from service.adapters.versature import VersatureServer
from service.config import DEFAULT_APPLICATION, Settings
from service.core.absent import NoEscrow, NoTokenCache
from service.core.administration import Administration, seal_registration
from service.core.authorization import Authorization
from service.core.breaker import Breaker
from service.core.broker import TokenBroker
from service.core.clock import Clock, SystemClock
from service.core.directory import Directory
from service.core.errors import KeyUnavailable, StoreUnavailable
from service.core.exchange import CodeExchange
from service.core.health import Health, PartHealth, Readiness
from service.core.local_cache import LocalCache
from service.core.ports import AuthorizationServer, GrantStore
from service.core.redemption import Redeemer
from service.core.renewal import Renewer
from service.core.revocation import Revoker
from service.core.saving import Saver
from service.core.services import Services
from service.core.vault import Vault
from service.telemetry import Metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Container:
    """Everything that lives as long as the process."""

    settings: Settings
    metrics: Metrics
    database: Database
    server: VersatureServer
    keyring: AesKeyring
    administration: Administration
    services: Services
    drains: tuple[Callable[[timedelta], "asyncio.Future[int]"], ...]
