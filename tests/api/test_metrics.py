"""What an operator can measure: everything that happens, under bounded names, and nobody by name."""

import asyncio
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.core.errors import UpstreamUnavailable
from service.core.model import GrantType
from tests.api.front import ADMIN_KEY, Front, bearer, front_in
from tests.support.programs import needs_promtool

BOUNDED = {
    "application", "by", "days", "grant_type", "key_id", "method", "operation", "outcome", "part", "route", "source",
    "state", "status", "use", "version",
}  # fmt: skip

Series = dict[str, dict[tuple[tuple[str, str], ...], float]]


async def measured(front: Front) -> Series:
    text = (await front.client.get("/metrics")).text
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(series: Series, name: str, **labels: str) -> float | None:
    return series.get(f"token_broker_{name}", {}).get(tuple(sorted(labels.items())))


async def a_busy_day(front: Front) -> None:
    """A little of everything that is measured."""
    minted = await front.hold("alice")
    await front.hold("bob@example.com")
    await front.client.get("/tokens/alice")
    await front.client.get("/tokens/alice")
    await front.client.get("/tokens/nobody")
    await front.client.get("/tokens/@company")
    await front.client.post("/tokens/alice/rejected", json={"access_token": minted["access_token"]})
    await front.container.census.take()
    await front.client.get("/readyz")


async def test_token_requests_are_counted_and_timed_by_outcome_and_source(front: Front) -> None:
    await a_busy_day(front)
    series = await measured(front)
    for outcome, source, times in (
        ("served", "database", 1),
        ("served", "local", 1),
        ("served", "uri-miss", 1),
        ("served", "stale", 1),
        ("grant_not_found", "none", 1),
    ):
        labels = {"outcome": outcome, "source": source}
        assert value(series, "token_requests_total", **labels) == times, labels
        timed = None if source == "local" else times  # those leave by the hot lane
        assert value(series, "token_request_duration_seconds_count", **labels) == timed, labels


async def test_renewals_and_requests_to_the_provider_are_counted(front: Front) -> None:
    await a_busy_day(front)
    series = await measured(front)
    alices = {"application": "default", "grant_type": "authorization_code", "by": "request"}
    assert value(series, "renewal_attempts_total", **alices) == 1
    assert value(series, "renewals_total", **alices, outcome="saved") == 1
    assert value(series, "upstream_request_duration_seconds_count", grant_type="refresh_token", outcome="ok") == 1
    begun = sum(series["token_broker_renewal_attempts_total"].values())
    assert begun == sum(series["token_broker_renewals_total"].values()) == 2


async def test_grants_are_counted_by_application_and_state(front: Front) -> None:
    await a_busy_day(front)
    await front.client.delete("/grants/bob@example.com")
    await front.container.census.take()
    series = await measured(front)
    assert value(series, "grants", application="default", state="connected") == 1
    assert value(series, "grants", application="default", state="revoked") == 1
    assert value(series, "active_grants", application="default") == 1
    assert value(series, "refresh_tokens_ending", application="default", days="30") == 0
    assert value(series, "background_lag_seconds", application="default") == 0
    front.clock.advance(3600)
    await front.container.census.take()
    assert (value(await measured(front), "background_lag_seconds", application="default") or 0) > 300


async def test_where_nothing_is_renewed_ahead_of_need_nothing_is_late(tmp_path: Path) -> None:
    async with front_in(tmp_path, BROKER_RENEW_ACTIVE_HOURS="0") as front:
        await a_busy_day(front)
        series = await measured(front)
    assert "token_broker_grants" in series
    assert {"token_broker_active_grants", "token_broker_background_lag_seconds"}.isdisjoint(series)


async def test_a_count_that_is_too_old_is_no_longer_told(front: Front) -> None:
    await a_busy_day(front)
    front.clock.advance(180)
    assert "token_broker_grants" in await measured(front)
    front.clock.advance(1)
    assert "token_broker_grants" not in await measured(front)


async def test_an_open_circuit_and_the_keys_at_hand_are_shown(front: Front) -> None:
    default = front.container.services.directory.application("default")
    front.container.core.breaker.trip(default, GrantType.AUTHORIZATION_CODE, UpstreamUnavailable("x"), None)
    series = await measured(front)
    assert value(series, "open_circuits", application="default", grant_type="authorization_code") == 1
    assert value(series, "sealing_key_info", key_id="test", use="seals") == 1
    assert value(series, "sealing_keys_missing") == 0
    front.container.core.breaker.close(default, GrantType.AUTHORIZATION_CODE)
    assert "token_broker_open_circuits" not in await measured(front)


@pytest.mark.parametrize(("method", "change"), [("PATCH", {"client_secret": "another"}), ("DELETE", None)])
async def test_a_circuit_ends_with_the_settings_or_the_application_that_it_was_of(
    front: Front, method: str, change: dict[str, str] | None
) -> None:
    """Nobody is asked again in the name of what is gone, so no success would ever end an alert."""
    company = front.container.services.directory.application("company")
    front.container.core.breaker.trip(company, GrantType.CLIENT_CREDENTIALS, UpstreamUnavailable("x"), None)
    shown = value(await measured(front), "open_circuits", application="company", grant_type="client_credentials")
    assert shown == 1
    answer = await front.bare(method, "/applications/company", bearer(ADMIN_KEY), json=change)
    assert answer.is_success, answer.text
    assert "token_broker_open_circuits" not in await measured(front)


async def test_the_state_of_every_part_is_shown(front: Front) -> None:
    await front.client.get("/readyz")
    assert value(await measured(front), "part_state", part="database", state="ready") == 1
    async with front.database_away():
        front.clock.advance(2)
        parts = (await front.client.get("/readyz")).json()["parts"]
        series = await measured(front)
    assert value(series, "part_state", part="database", state="degraded") == 1
    assert value(series, "part_state", part="database", state="ready") is None
    assert len(series["token_broker_part_state"]) == len(parts)


async def test_the_providers_clock_is_compared_with_ours(front: Front) -> None:
    await a_busy_day(front)
    skew = value(await measured(front), "provider_clock_skew_seconds", application="default")
    assert skew is not None
    assert abs(skew) <= 1


async def test_every_metric_that_the_catalogue_lists_is_there_and_no_other(front: Front) -> None:
    await a_busy_day(front)
    text = (await front.client.get("/metrics")).text
    shown = {f"{family.name}_total" if family.type == "counter" else family.name
             for family in text_string_to_metric_families(text)}  # fmt: skip
    listed = {described.name for described in front.metrics.catalogue}
    assert shown == listed
    assert len(listed) == len(front.metrics.catalogue)


async def test_no_metric_names_a_user_a_caller_or_a_secret_and_every_label_is_bounded(front: Front) -> None:
    await a_busy_day(front)
    text = (await front.client.get("/metrics")).text
    for name in ("alice", "bob", "nobody", "@company", "crm", "vtb_"):
        assert name not in text
    labels = {label for described in front.metrics.catalogue for label in described.labels}
    assert labels <= BOUNDED


async def test_the_application_that_somebody_makes_up_becomes_no_label(front: Front) -> None:
    await front.client.get("/tokens/alice?application=made-up")
    assert "made-up" not in (await front.client.get("/metrics")).text


async def test_two_brokers_in_one_process_never_mix_their_metrics(
    front: Front, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await a_busy_day(front)
    async with front_in(tmp_path_factory.mktemp("other")) as other:
        assert "token_broker_token_requests_total" not in await measured(other)


@needs_promtool
async def test_promtool_finds_nothing_to_complain_of(front: Front) -> None:
    await a_busy_day(front)
    page = (await front.client.get("/metrics")).content
    command = ["promtool", "check", "metrics"]
    verdict = await asyncio.to_thread(subprocess.run, command, input=page, capture_output=True, check=False)
    assert (verdict.returncode, verdict.stdout + verdict.stderr) == (0, b"")
