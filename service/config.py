"""Every knob of the product, its unit, and the checks across knobs. All that is wrong is reported at once."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from service.core.access.administration import KEY_PREFIX
from service.core.access.registration import Registration
from service.core.model import GrantType, SealingKey
from service.core.policy import Policy
from service.core.sealing.pseudonyms import NameUser, Naming, naming
from service.forms import (
    check_database_url,
    check_redis_url,
    is_loopback,
    own_url,
    parse_keys,
    read_base_url,
    read_network,
    read_origin,
    read_text,
    read_url,
    split,
)

DEFAULT_APPLICATION = "default"


class WrongSettings(Exception):
    """One or more settings are wrong; `problems` maps each name to what is wrong with it, never to its value."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        self.problems = problems


Names = Annotated[tuple[str, ...], BeforeValidator(split)]
Text = Annotated[str, AfterValidator(read_text)]
Url = Annotated[str, Field(), BeforeValidator(lambda value: read_url(str(value)))]
BaseUrl = Annotated[str, Field(), BeforeValidator(lambda value: read_base_url(str(value)))]
Keys = Annotated[tuple[SealingKey, ...], BeforeValidator(parse_keys)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """The environment, read and checked; every field is named like its variable, in small letters."""

    model_config = SettingsConfigDict(
        enable_decoding=False, env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    versature_client_id: Text | None = None
    versature_client_secret: Annotated[SecretStr | None, Field(validate_default=True)] = None
    versature_vendor_id: Text | None = None
    versature_base_url: BaseUrl = "https://integrate.versature.com/api"
    versature_token_url: Url | None = None
    versature_authorize_url: Url | None = None
    versature_revocation_url: Url | None = None
    versature_scope: Text | None = None
    versature_pkce: bool = False
    versature_grant_types: Annotated[frozenset[GrantType], BeforeValidator(split), Field(min_length=1)] = frozenset(
        GrantType
    )

    broker_database_url: SecretStr = SecretStr("sqlite+aiosqlite:///token-broker.db")
    broker_database_pool_size: Annotated[int, Field(ge=1, le=1000)] = 10
    broker_redis_url: SecretStr | None = None
    broker_encryption_keys: Annotated[Keys, Field(repr=False)]
    broker_host: str = "127.0.0.1"
    broker_port: Annotated[int, Field(ge=1, le=65_535)] = 8000
    broker_public_url: Annotated[BaseUrl | None, Field(validate_default=True)] = None
    broker_routes: Literal["all", "internal", "public"] = "all"
    broker_admin_key: SecretStr | None = None
    broker_return_origins: Names = ()
    broker_trusted_proxies: Names = ()
    broker_local_cache_seconds: Annotated[float, Field(ge=0, le=3600)] = 5
    broker_upstream_deadline_seconds: Seconds = 10
    broker_lease_seconds: Annotated[Seconds, Field(validate_default=True)] = 30
    broker_takeover_seconds: Annotated[float, Field(ge=0, le=86_400)] = 30
    broker_wait_seconds: Seconds = 15
    broker_backoff_initial_seconds: Seconds = 1
    broker_backoff_max_seconds: Annotated[Seconds, Field(validate_default=True)] = 300
    broker_refresh_token_days: Annotated[float, Field(gt=0, le=3650)] = 90
    broker_caller_requests_per_second: Annotated[float, Field(ge=0, le=1_000_000)] = 0
    broker_escrow_dir: Path = Path("token-broker-escrow")
    broker_keepalive_days: Annotated[float, Field(gt=0, le=3650)] = 80
    broker_renew_active_hours: Annotated[float, Field(ge=0, le=87_600)] = 24
    broker_renew_per_second: Annotated[float, Field(gt=0, le=10_000)] = 10
    broker_audit_days: Annotated[float, Field(gt=0, le=36_500)] = 90
    broker_drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 15
    broker_log_level: Literal["debug", "info", "warning", "error"] = "info"
    broker_log_format: Literal["json", "human"] = "json"
    broker_log_users: Naming = "hash"

    @field_validator("*", mode="before")
    @classmethod
    def _file_was_read(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, OSError | UnicodeDecodeError):
            name = f"{info.field_name}_file".upper()
            raise ValueError(f"the file that {name} names cannot be read ({type(value).__name__})")  # noqa: TRY004
        return value

    @field_validator("versature_client_secret")
    @classmethod
    def _pair(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if "versature_client_id" in info.data and (secret is None) != (info.data["versature_client_id"] is None):
            raise ValueError("VERSATURE_CLIENT_ID and VERSATURE_CLIENT_SECRET belong together")
        return secret

    @field_validator("broker_database_url")
    @classmethod
    def _usable_database(cls, url: SecretStr) -> SecretStr:
        return SecretStr(check_database_url(url.get_secret_value()))

    @field_validator("broker_redis_url")
    @classmethod
    def _usable_redis(cls, url: SecretStr | None) -> SecretStr | None:
        return SecretStr(check_redis_url(url.get_secret_value())) if url is not None else None

    @field_validator("broker_admin_key")
    @classmethod
    def _admin_key_form(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value()) <= len(KEY_PREFIX):
            raise ValueError("an admin key is more than its prefix")
        if key is not None and not key.get_secret_value().startswith(KEY_PREFIX):
            raise ValueError(f"an admin key begins with {KEY_PREFIX}")
        return key

    @field_validator("broker_public_url")
    @classmethod
    def _public_url_is_safe(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None and not {"broker_host", "broker_port"} <= info.data.keys():
            return None
        parts = urlsplit(url or read_base_url(own_url(info.data["broker_host"], info.data["broker_port"])))
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise ValueError("must be https, or http on loopback; set it when BROKER_HOST is not loopback")
        return url

    @field_validator("broker_return_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(read_origin(origin) for origin in origins)

    @field_validator("broker_trusted_proxies")
    @classmethod
    def _networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(read_network(proxy) for proxy in proxies)

    @field_validator("broker_lease_seconds")
    @classmethod
    def _lease_outlasts_deadline(cls, lease: float, info: ValidationInfo) -> float:
        deadline = info.data.get("broker_upstream_deadline_seconds")
        if deadline is not None and lease < 2 * deadline:
            raise ValueError("must be at least twice BROKER_UPSTREAM_DEADLINE_SECONDS")
        return lease

    @field_validator("broker_backoff_max_seconds")
    @classmethod
    def _backoff_grows(cls, longest: float, info: ValidationInfo) -> float:
        if longest < info.data.get("broker_backoff_initial_seconds", 0):
            raise ValueError("must not be less than BROKER_BACKOFF_INITIAL_SECONDS")
        return longest

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _FileSource(settings_cls)

    @property
    def public_url(self) -> str:
        return (self.broker_public_url or own_url(self.broker_host, self.broker_port)).rstrip("/")

    @property
    def redirect_uri(self) -> str:
        return f"{self.public_url}/oauth/callback"

    @property
    def name_user(self) -> NameUser:
        """What logs call users."""
        return naming(self.broker_log_users, self.broker_encryption_keys[0])

    @property
    def default_registration(self) -> Registration | None:
        """The application that the VERSATURE_ settings define, if they do."""
        if self.versature_client_id is None or self.versature_client_secret is None:
            return None
        return Registration(
            name=DEFAULT_APPLICATION,
            client_id=self.versature_client_id,
            client_secret=self.versature_client_secret.get_secret_value(),
            grant_types=self.versature_grant_types,
            base_url=self.versature_base_url,
            token_url=self.versature_token_url,
            authorize_url=self.versature_authorize_url,
            revocation_url=self.versature_revocation_url,
            oauth_scope=self.versature_scope,
            vendor_id=self.versature_vendor_id,
            pkce=self.versature_pkce,
        )

    @property
    def drain(self) -> timedelta:
        return timedelta(seconds=self.broker_drain_seconds)

    @property
    def policy(self) -> Policy:
        return Policy(
            upstream_deadline=timedelta(seconds=self.broker_upstream_deadline_seconds),
            lease=timedelta(seconds=self.broker_lease_seconds),
            takeover=timedelta(seconds=self.broker_takeover_seconds),
            wait=timedelta(seconds=self.broker_wait_seconds),
            backoff_initial=timedelta(seconds=self.broker_backoff_initial_seconds),
            backoff_max=timedelta(seconds=self.broker_backoff_max_seconds),
            local_cache=timedelta(seconds=self.broker_local_cache_seconds),
            refresh_token_life=timedelta(days=self.broker_refresh_token_days),
            keep_alive=timedelta(days=min(self.broker_keepalive_days, 0.9 * self.broker_refresh_token_days)),
            renew_active=timedelta(hours=self.broker_renew_active_hours),
            renew_per_second=self.broker_renew_per_second,
        )


class _FileSource(PydanticBaseSettingsSource):
    """Settings that come from a file: `NAME_FILE` is a path, and one trailing newline is not part of the value.

    A file that cannot be read has its failure for a value, so that it is reported with everything else.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{field_name}_file".upper())
        try:
            value = Path(path).read_text(encoding="utf-8").removesuffix("\n") if path else None
        except (OSError, UnicodeDecodeError) as failure:
            return failure, field_name, False
        return value or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def load_settings() -> Settings:
    """The settings of this process's environment.

    Raises:
        WrongSettings: with every problem there is.
    """
    problems = {}
    for name in Settings.model_fields:
        if os.environ.get(name.upper()) and os.environ.get(f"{name}_file".upper()):
            problems[name.upper()] = f"is given twice, also as {name.upper()}_FILE"
    settings = None
    try:
        settings = Settings()
    except ValidationError as wrong:
        for error in wrong.errors(include_input=False, include_context=False, include_url=False):
            name = str(error["loc"][0]).upper() if error["loc"] else "settings"
            problem = "is required" if error["type"] == "missing" else error["msg"].removeprefix("Value error, ")
            problems.setdefault(name, problem)
    if settings is None or problems:
        raise WrongSettings(problems)
    return settings
