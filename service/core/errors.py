"""Every way in which a request can fail, sorted by who can mend it.

    BrokerError
    ├── AskerError                     the calling service
    │   ├── InvalidApiKey
    │   ├── NotAllowed
    │   ├── InvalidRequest
    │   ├── UnsupportedMediaType
    │   ├── PayloadTooLarge
    │   ├── ResourceNotFound
    │   ├── MethodNotAllowed
    │   ├── ApplicationNotFound
    │   ├── GrantNotFound              the user, by connecting
    │   ├── ReauthorizationRequired    the user, by connecting again
    │   ├── Conflict
    │   ├── RejectedTooOften
    │   └── RateLimited
    ├── BrowserTripError               the person at the browser
    │   ├── InvalidAuthorizationRequest
    │   ├── AuthorizationExpired
    │   └── AuthorizationDenied
    ├── UpstreamError                  the provider, or our registration with it
    │   ├── ClientRejected
    │   ├── InvalidUpstreamAnswer
    │   └── UpstreamUnavailable
    └── HouseError                     the operator of this broker
        ├── RenewalInProgress
        ├── StoreUnavailable
        ├── KeyUnavailable
        ├── Overloaded
        └── InternalError

Each leaf has a stable `code`; `api.problems` gives it status and title. No message ever holds a secret.
"""

import math
from datetime import timedelta
from typing import ClassVar

from service.core.model import GrantId, Reason


class BrokerError(Exception):
    """A failure with a stable code and a sentence for people; `retry_after` is None where repeating helps nobody."""

    code: ClassVar[str]

    def __init__(self, detail: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after

    @property
    def retry_after_seconds(self) -> int | None:
        """Whole seconds for the `Retry-After` header, at least 1, never too early."""
        if self.retry_after is None:
            return None
        return max(1, math.ceil(self.retry_after.total_seconds()))


class AskerError(BrokerError):
    """The calling service can mend it."""


class InvalidApiKey(AskerError):
    code = "invalid_api_key"


class NotAllowed(AskerError):
    code = "not_allowed"


class InvalidRequest(AskerError):
    code = "invalid_request"


class UnsupportedMediaType(AskerError):
    code = "unsupported_media_type"


class PayloadTooLarge(AskerError):
    code = "payload_too_large"


class ResourceNotFound(AskerError):
    code = "not_found"


class MethodNotAllowed(AskerError):
    code = "method_not_allowed"


class ApplicationNotFound(AskerError):
    code = "application_not_found"


class GrantNotFound(AskerError):
    """Nothing was ever connected under this name."""

    code = "grant_not_found"

    def __init__(self, grant: GrantId) -> None:
        super().__init__("This user has not been connected yet. Ask for a connect URL and send the user there.")
        self.grant = grant


class ReauthorizationRequired(AskerError):
    """Only the user can mend this grant, by connecting again; `by_us` when it was revoked here."""

    code = "reauthorization_required"

    def __init__(self, grant: GrantId, reason: Reason, *, by_us: bool = False) -> None:
        super().__init__(reason.explanation)
        self.grant = grant
        self.reason = reason
        self.by_us = by_us


class Conflict(AskerError):
    code = "conflict"


class RejectedTooOften(AskerError):
    code = "rejected_too_often"


class RateLimited(AskerError):
    code = "rate_limited"


class BrowserTripError(BrokerError):
    """The person at the browser can mend it."""


class InvalidAuthorizationRequest(BrowserTripError):
    code = "invalid_authorization_request"


class AuthorizationExpired(BrowserTripError):
    code = "authorization_expired"


class AuthorizationDenied(BrowserTripError):
    code = "authorization_denied"


class UpstreamError(BrokerError):
    """The provider, or our registration with it, is in trouble."""


class ClientRejected(UpstreamError):
    code = "client_rejected"


class InvalidUpstreamAnswer(UpstreamError):
    code = "invalid_upstream_answer"


class UpstreamUnavailable(UpstreamError):
    code = "upstream_unavailable"


class HouseError(BrokerError):
    """The operator of this broker can mend it."""


class RenewalInProgress(HouseError):
    code = "renewal_in_progress"


class StoreUnavailable(HouseError):
    """`asked` is False when the database was not even asked, or refused at once: nothing can have changed in it."""

    code = "store_unavailable"

    def __init__(self, detail: str = "The database cannot be asked at the moment.", *, asked: bool = True) -> None:
        super().__init__(detail, retry_after=timedelta(seconds=1))
        self.asked = asked


class KeyUnavailable(HouseError):
    code = "key_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "A stored secret is sealed with a key that this broker was not given.", retry_after=timedelta(seconds=30)
        )


class Overloaded(HouseError):
    code = "overloaded"

    def __init__(self) -> None:
        super().__init__("This process has as many requests under way as it takes.", retry_after=timedelta(seconds=1))


class InternalError(HouseError):
    code = "internal_error"
