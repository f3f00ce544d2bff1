"""Every setting's default and check; all that is wrong is told at once, by name and never by value."""

import base64
import re
from datetime import timedelta
from pathlib import Path

import pytest

from service.config import Settings, WrongSettings, load_settings
from service.core.model import GrantType, SealingKey
from service.core.policy import Policy
from tests.support.brokers import applied

KEY = "one:" + base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = "two:" + base64.b64encode(b"\xff" * 32).decode()
SECRET = "geheim-4711"
CLIENT = {"VERSATURE_CLIENT_ID": "id", "VERSATURE_CLIENT_SECRET": SECRET}


def load(**variables: str) -> Settings:
    with applied({"BROKER_ENCRYPTION_KEYS": KEY, **variables}):
        return load_settings()


def problems(**variables: str) -> dict[str, str]:
    """What is wrong with these settings; nothing of it may repeat a value."""
    with pytest.raises(WrongSettings) as wrong:
        load(**variables)
    told = str(wrong.value) + repr(wrong.value) + "".join(wrong.value.problems.values())
    for value in variables.values():
        assert len(value) < 6 or value not in told
    return wrong.value.problems


DEFAULTS: dict[str, object] = {
    "versature_client_id": None,
    "versature_client_secret": None,
    "versature_vendor_id": None,
    "versature_base_url": "https://integrate.versature.com/api",
    "versature_token_url": None,
    "versature_authorize_url": None,
    "versature_revocation_url": None,
    "versature_scope": None,
    "versature_pkce": False,
    "versature_grant_types": frozenset({GrantType.CLIENT_CREDENTIALS, GrantType.AUTHORIZATION_CODE}),
    "broker_database_pool_size": 10,
    "broker_host": "127.0.0.1",
    "broker_port": 8000,
    "broker_public_url": None,
    "broker_routes": "all",
    "broker_admin_key": None,
    "broker_redis_url": None,
    "broker_return_origins": (),
    "broker_trusted_proxies": (),
    "broker_local_cache_seconds": 5,
    "broker_upstream_deadline_seconds": 10,
    "broker_lease_seconds": 30,
    "broker_takeover_seconds": 30,
    "broker_escrow_dir": Path("token-broker-escrow"),
    "broker_keepalive_days": 80,
    "broker_audit_days": 90,
    "broker_renew_active_hours": 24,
    "broker_renew_per_second": 10,
    "broker_wait_seconds": 15,
    "broker_backoff_initial_seconds": 1,
    "broker_backoff_max_seconds": 300,
    "broker_refresh_token_days": 90,
    "broker_caller_requests_per_second": 0,
    "broker_drain_seconds": 15,
    "broker_log_level": "info",
    "broker_log_format": "json",
    "broker_log_users": "hash",
}


def test_nothing_but_a_sealing_key_is_needed() -> None:
    settings = load()
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS
    assert settings.broker_database_url.get_secret_value() == "sqlite+aiosqlite:///token-broker.db"
    assert set(Settings.model_fields) == {*DEFAULTS, "broker_encryption_keys", "broker_database_url"}
    assert settings.default_registration is None
    assert settings.redirect_uri == "http://127.0.0.1:8000/oauth/callback"


def test_the_core_by_itself_goes_by_the_times_of_a_broker_that_nobody_configured() -> None:
    """Or its tests would promise what no broker keeps."""
    assert load().policy == Policy()
    assert load(BROKER_WAIT_SECONDS="16").policy == Policy(wait=timedelta(seconds=16))


def test_without_a_sealing_key_nothing_starts() -> None:
    assert problems(BROKER_ENCRYPTION_KEYS="") == {"BROKER_ENCRYPTION_KEYS": "is required"}


@pytest.mark.parametrize("name", sorted(name.upper() for name in Settings.model_fields))
def test_an_empty_variable_is_an_unset_one(name: str) -> None:
    if name == "BROKER_ENCRYPTION_KEYS":
        assert problems(**{name: ""}) == {name: "is required"}
    else:
        assert load(**{name: ""}) == load()


WRONG: dict[str, list[str]] = {
    "VERSATURE_CLIENT_ID": ["client-id\r", "client\tid", "x" * 1025, "client-\udcff"],
    "VERSATURE_VENDOR_ID": ["vendor\r"],
    "VERSATURE_SCOPE": ["Office Manager\r"],
    "VERSATURE_BASE_URL": [
        "nonsense",
        "/api",
        "ftp://versature.example",
        "https://",
        "https://user:geheim@versature.example",
        "https://versature.example/#fragment",
        "https://versature.example/#",
        "https://versature.example/api?tenant=1",
        "https://versature.example/api?",
        "https://versature.example:99999",
        "https://ver sature/",
    ],
    "VERSATURE_TOKEN_URL": ["nonsense", "https://user@versature.example/"],
    "VERSATURE_AUTHORIZE_URL": ["nonsense", "javascript:alert(1)"],
    "VERSATURE_REVOCATION_URL": ["nonsense"],
    "VERSATURE_PKCE": ["perhaps"],
    "VERSATURE_GRANT_TYPES": ["password", "client_credentials;authorization_code", ",", "client_credentials,implicit"],
    "BROKER_DATABASE_URL": [
        "sqlite:///a.db",
        "token-broker.db",
        "mysql://user:geheim@host/db",
        "sqlite+aiosqlite:///",
        "sqlite+aiosqlite:///:memory:",
        "postgresql+psycopg://user:geheim@host:port/db",
        "postgresql+psycopg://user:geheim@host/db?no_such_option=geheim",
    ],
    "BROKER_REDIS_URL": [
        "http://geheim@host",
        "redis://:geheim/x@host:6379/0",
        "redis://host/0?no_such_option=geheim",
        "rediss://host/0?ssl_cert_reqs=geheim",
    ],
    "BROKER_DATABASE_POOL_SIZE": ["0", "-1", "1001", "1.5", "many"],
    "BROKER_ENCRYPTION_KEYS": [
        "nonsense",
        KEY[:-4],
        KEY.partition(":")[2],
        "one:",
        "one:" + "!" * 44,
        KEY.replace("one:", ":"),
        KEY.replace("one:", "o ne:"),
        KEY.replace("one:", "x" * 33 + ":"),
        f"{KEY},{KEY}",
        f"{KEY};{OTHER_KEY}",
        f"{KEY},nonsense",
    ],
    "BROKER_PORT": ["0", "65536", "-1", "http", "80.5"],
    "BROKER_PUBLIC_URL": [
        "broker.example",
        "http://broker.example",
        "http://10.0.0.1:8000",
        "http://localhost.evil.example",
        "https://broker.example/?a=b",
        "https://broker.example/?",
        "https://broker.example/#fragment",
        "https://broker.example/#",
        "https://user:geheim@broker.example",
    ],
    "BROKER_ROUTES": ["none", "ALL", "internal,public"],
    "BROKER_ADMIN_KEY": ["geheimnis", "vtb_", "VTB_geheim"],
    "BROKER_RETURN_ORIGINS": [
        "crm.example",
        "https://crm.example/path",
        "https://crm.example?x=1",
        "https://good.example,bad.example",
        "https://user@crm.example",
        "ftp://crm.example",
    ],
    "BROKER_TRUSTED_PROXIES": ["proxy.example", "10.0.0.0/33", "10.0.0.1,elsewhere", "*"],
    "BROKER_LOCAL_CACHE_SECONDS": ["-0.1", "3601", "soon", "nan"],
    "BROKER_UPSTREAM_DEADLINE_SECONDS": ["0", "-1", "inf"],
    "BROKER_LEASE_SECONDS": ["19.9", "0", "86401"],
    "BROKER_TAKEOVER_SECONDS": ["-1", "86401"],
    "BROKER_WAIT_SECONDS": ["0", "-1"],
    "BROKER_BACKOFF_INITIAL_SECONDS": ["0", "-1"],
    "BROKER_BACKOFF_MAX_SECONDS": ["0.5", "0"],
    "BROKER_REFRESH_TOKEN_DAYS": ["0", "-1", "3651"],
    "BROKER_DRAIN_SECONDS": ["-1", "3601"],
    "BROKER_LOG_LEVEL": ["loud", "INFO", "trace"],
    "BROKER_LOG_FORMAT": ["xml"],
    "BROKER_LOG_USERS": ["everybody", "HASH"],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_told_by_name_alone(name: str) -> None:
    for value in WRONG[name]:
        assert set(problems(**{name: value})) == {name}, value


def test_all_that_is_wrong_is_told_at_once_and_no_secret_with_it(tmp_path: Path) -> None:
    unreadable = tmp_path / f"{SECRET}-file"
    wrong = {
        "VERSATURE_BASE_URL": f"https://user:{SECRET}@versature.example",
        "VERSATURE_CLIENT_SECRET": SECRET,
        "VERSATURE_GRANT_TYPES": f"client_credentials,{SECRET}",
        "BROKER_DATABASE_URL": f"postgres://broker:{SECRET}@db/broker",
        "BROKER_ENCRYPTION_KEYS": f"one:{SECRET}",
        "BROKER_ADMIN_KEY": SECRET,
        "BROKER_HOST": f"{SECRET}\uff0fx",
        "BROKER_RETURN_ORIGINS": f"https://{SECRET}/x",
        "BROKER_TRUSTED_PROXIES": SECRET,
        "BROKER_PORT": SECRET,
        "BROKER_ROUTES": SECRET,
        "BROKER_LOG_LEVEL": SECRET,
        "BROKER_LOG_FORMAT": SECRET,
        "BROKER_LEASE_SECONDS": SECRET,
        "BROKER_BACKOFF_MAX_SECONDS": "0.1",
        "VERSATURE_VENDOR_ID_FILE": str(unreadable),
        "VERSATURE_SCOPE": "one way",
        "VERSATURE_SCOPE_FILE": str(unreadable),
    }
    found = problems(**wrong)
    assert SECRET not in str(found)
    expected = {name for name in wrong if not name.endswith("_FILE")} - {"BROKER_HOST"}
    assert set(found) == expected | {"VERSATURE_VENDOR_ID"}


def test_a_host_that_no_url_can_hold_is_told_without_its_value() -> None:
    assert set(problems(BROKER_HOST="geheim\uff0fx")) == {"BROKER_PUBLIC_URL"}


def test_client_id_and_secret_belong_together() -> None:
    for half, value in CLIENT.items():
        assert "VERSATURE_CLIENT_SECRET" in problems(**{half: value})
    registration = load(**CLIENT, VERSATURE_VENDOR_ID="v", VERSATURE_SCOPE="Office Manager").default_registration
    assert registration is not None
    assert (registration.name, registration.client_id, registration.client_secret) == ("default", "id", SECRET)
    assert (registration.vendor_id, registration.oauth_scope, registration.pkce) == ("v", "Office Manager", False)
    assert registration.base_url == "https://integrate.versature.com/api"


def test_pkce_is_a_plain_yes_or_no() -> None:
    assert [load(VERSATURE_PKCE=text).versature_pkce for text in ("true", "false", "1", "0")] == [
        True,
        False,
        True,
        False,
    ]


SECRET_SETTINGS = ["VERSATURE_CLIENT_SECRET", "BROKER_ENCRYPTION_KEYS", "BROKER_ADMIN_KEY", "BROKER_DATABASE_URL"]


def test_every_secret_can_come_from_a_file_that_ends_with_a_newline(tmp_path: Path) -> None:
    texts = {
        "VERSATURE_CLIENT_SECRET": SECRET,
        "BROKER_ENCRYPTION_KEYS": f"{OTHER_KEY},{KEY}",
        "BROKER_ADMIN_KEY": "vtb_admin",
        "BROKER_DATABASE_URL": "sqlite+aiosqlite:///elsewhere.db",
    }
    assert list(texts) == SECRET_SETTINGS
    for name, text in texts.items():
        (tmp_path / name).write_text(f"{text}\n")
    files = {f"{name}_FILE": str(tmp_path / name) for name in texts}
    settings = load(**files, BROKER_ENCRYPTION_KEYS="", VERSATURE_CLIENT_ID="id")
    assert settings == load(**texts, VERSATURE_CLIENT_ID="id")


def test_a_file_loses_one_newline_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for content, secret in [("a", "a"), ("a\n", "a"), ("a\n\n", "a\n"), (" a \n", " a "), ("ä\n", "ä")]:
        file.write_text(content, encoding="utf-8")
        found = load(VERSATURE_CLIENT_ID="id", VERSATURE_CLIENT_SECRET_FILE=str(file)).versature_client_secret
        assert found is not None
        assert found.get_secret_value() == secret


def test_an_empty_file_is_an_unset_setting(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    for content in ("", "\n"):
        file.write_text(content)
        path = str(file)
        assert load(BROKER_ADMIN_KEY_FILE=path) == load()
        assert problems(BROKER_ENCRYPTION_KEYS="", BROKER_ENCRYPTION_KEYS_FILE=path) == {
            "BROKER_ENCRYPTION_KEYS": "is required"
        }
    assert load(BROKER_ADMIN_KEY_FILE="") == load()


def test_an_unreadable_file_is_told_by_the_variable_that_names_it(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "missing", tmp_path, binary):
        found = problems(BROKER_ADMIN_KEY_FILE=str(path), VERSATURE_CLIENT_SECRET_FILE=str(path))
        assert set(found) == {"BROKER_ADMIN_KEY", "VERSATURE_CLIENT_SECRET"}
        assert "BROKER_ADMIN_KEY_FILE" in found["BROKER_ADMIN_KEY"]


def test_a_setting_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    found = problems(BROKER_ENCRYPTION_KEYS_FILE=str(file))
    assert set(found) == {"BROKER_ENCRYPTION_KEYS"}
    assert "BROKER_ENCRYPTION_KEYS_FILE" in found["BROKER_ENCRYPTION_KEYS"]


def test_lists_are_comma_separated_and_blanks_around_them_do_not_count() -> None:
    settings = load(
        BROKER_RETURN_ORIGINS=" https://A.example/ , http://localhost:3000,",
        BROKER_TRUSTED_PROXIES="10.0.0.0/8, ::1",
        VERSATURE_GRANT_TYPES=" authorization_code ",
        BROKER_ENCRYPTION_KEYS=f"{OTHER_KEY} , {KEY}",
    )
    assert settings.broker_return_origins == ("https://a.example", "http://localhost:3000")
    assert settings.broker_trusted_proxies == ("10.0.0.0/8", "::1")
    assert settings.versature_grant_types == {GrantType.AUTHORIZATION_CODE}
    assert settings.broker_encryption_keys == (SealingKey("two", b"\xff" * 32), SealingKey("one", bytes(range(32))))


def test_a_sealing_key_may_be_written_in_either_base64() -> None:
    other = base64.urlsafe_b64encode(b"\xfb" * 32).decode()
    assert "-" in other
    assert load(BROKER_ENCRYPTION_KEYS=f"k:{other}").broker_encryption_keys == (SealingKey("k", b"\xfb" * 32),)


GOOD_PUBLIC_URLS = [
    ("https://broker.example", "https://broker.example/oauth/callback"),
    ("https://broker.example/", "https://broker.example/oauth/callback"),
    ("https://broker.example:8443/tokens", "https://broker.example:8443/tokens/oauth/callback"),
    ("http://localhost:8000", "http://localhost:8000/oauth/callback"),
    ("http://127.0.0.1:9000", "http://127.0.0.1:9000/oauth/callback"),
    ("http://127.8.8.8", "http://127.8.8.8/oauth/callback"),
    ("http://[::1]:9000", "http://[::1]:9000/oauth/callback"),
    ("http://broker.localhost", "http://broker.localhost/oauth/callback"),
]


@pytest.mark.parametrize(("public_url", "redirect_uri"), GOOD_PUBLIC_URLS)
def test_a_public_url_is_https_or_loopback(public_url: str, redirect_uri: str) -> None:
    assert load(BROKER_PUBLIC_URL=public_url, BROKER_HOST="0.0.0.0").redirect_uri == redirect_uri  # noqa: S104


@pytest.mark.parametrize(("host", "public_url"), [("127.0.0.1", "http://127.0.0.1:81"), ("::1", "http://[::1]:81")])
def test_an_omitted_public_url_is_host_and_port(host: str, public_url: str) -> None:
    assert load(BROKER_HOST=host, BROKER_PORT="81").public_url == public_url


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "broker.example"])  # noqa: S104
def test_who_listens_beyond_loopback_must_say_under_which_https_url(host: str) -> None:
    found = problems(BROKER_HOST=host)
    assert set(found) == {"BROKER_PUBLIC_URL"}
    assert "BROKER_HOST" in found["BROKER_PUBLIC_URL"]
    assert load(BROKER_HOST=host, BROKER_PUBLIC_URL="https://broker.example").public_url == "https://broker.example"


def test_a_lease_lasts_at_least_twice_the_deadline() -> None:
    assert load(BROKER_LEASE_SECONDS="20").broker_lease_seconds == 20
    assert set(problems(BROKER_LEASE_SECONDS="19.999")) == {"BROKER_LEASE_SECONDS"}
    assert set(problems(BROKER_UPSTREAM_DEADLINE_SECONDS="15.001")) == {"BROKER_LEASE_SECONDS"}
    assert set(problems(BROKER_UPSTREAM_DEADLINE_SECONDS="x", BROKER_LEASE_SECONDS="1")) == {
        "BROKER_UPSTREAM_DEADLINE_SECONDS"
    }


def test_backoff_does_not_shrink() -> None:
    assert load(BROKER_BACKOFF_INITIAL_SECONDS="7", BROKER_BACKOFF_MAX_SECONDS="7").policy.backoff_max.seconds == 7
    assert set(problems(BROKER_BACKOFF_INITIAL_SECONDS="301")) == {"BROKER_BACKOFF_MAX_SECONDS"}


def test_the_policy_has_every_duration_in_its_unit() -> None:
    policy = load(
        BROKER_UPSTREAM_DEADLINE_SECONDS="1",
        BROKER_LEASE_SECONDS="2.5",
        BROKER_TAKEOVER_SECONDS="3",
        BROKER_WAIT_SECONDS="4",
        BROKER_BACKOFF_INITIAL_SECONDS="5",
        BROKER_BACKOFF_MAX_SECONDS="6",
        BROKER_LOCAL_CACHE_SECONDS="0",
        BROKER_REFRESH_TOKEN_DAYS="8",
    ).policy
    assert policy.upstream_deadline == timedelta(seconds=1)
    assert policy.lease == timedelta(seconds=2.5)
    assert policy.takeover == timedelta(seconds=3)
    assert policy.wait == timedelta(seconds=4)
    assert policy.backoff_initial == timedelta(seconds=5)
    assert policy.backoff_max == timedelta(seconds=6)
    assert policy.local_cache == timedelta(0)
    assert policy.refresh_token_life == timedelta(days=8)
    assert policy.keep_alive == timedelta(days=7.2)


def test_settings_can_be_printed_without_telling_a_secret() -> None:
    key_text = KEY.partition(":")[2]
    settings = load(**CLIENT, BROKER_ADMIN_KEY=f"vtb_{SECRET}", BROKER_DATABASE_URL=f"sqlite+aiosqlite:///{SECRET}.db")
    shown = f"{settings!r} {settings} {settings.default_registration!r}"
    assert SECRET not in shown
    assert key_text not in shown
    assert not re.search(r"\\x00\\x01", shown)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().broker_port = 1  # type: ignore[misc]
