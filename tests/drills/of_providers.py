"""Drills of the provider: away, refusing, forgetful, or living in another time."""

from collections.abc import Callable
from datetime import timedelta

from sandbox.directory import COMPANY_CLIENT
from tests.drills.drill import drill
from tests.drills.scene import ADMIN_KEY, Replica, Scene, SetClock, until

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@drill("TokenBrokerUpstreamErrors", "TokenBrokerCircuitOpen", "TokenBrokerRenewalsFailing")
async def the_provider_answers_with_errors(scene: Scene) -> None:
    await scene.prepare()
    replica, users = await scene.start(), [f"user{number}" for number in range(8)]
    await scene.import_(replica, "before", *users)
    assert await replica.token("before") == 200
    await scene.calm(replica)
    await scene.versature.switch(fault="server_error")
    for round_ in range(2):
        for user in users[4 * round_ : 4 * round_ + 4]:
            answer = await replica.client.get(f"/tokens/{user}")
            assert (answer.status_code, answer.json()["code"]) == (503, "upstream_unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
        await scene.trouble(replica)
    await replica.shows(r"token_broker_open_circuits{.+}", lambda value: value == 1)
    assert await replica.token("before") == 200, "valid tokens are handed out"
    assert (await scene.doctor_says("provider of default")).startswith("ok")
    await scene.versature.switch(fault="none")
    for user in users:
        await until(lambda user=user: _has_token(replica, user), f"{user} does not come back")  # type: ignore[misc]
        await scene.healed(replica)
    await replica.shows(r"token_broker_open_circuits{.+}", lambda value: value == 0)
    await scene.healed(replica)


async def _has_token(replica: Replica, user: str) -> bool:
    return await replica.token(user) == 200


@drill("TokenBrokerClientRefused", "TokenBrokerCircuitOpen")
async def a_client_secret_is_wrong(scene: Scene) -> None:
    await scene.prepare()
    await scene.versature.switch(token_lifetime_seconds=1)
    replica = await scene.start()
    assert await replica.token("@company") == 200
    await scene.calm(replica)
    await _set_secret(replica, "mistyped")
    await until(lambda: _is_refused(replica), "the token never ends")
    await scene.trouble(replica)
    await replica.shows(r"token_broker_open_circuits{.+}", lambda value: value == 1)
    await scene.trouble(replica)
    rows = {row["name"]: row for row in await scene.terminal.listed("applications list")}
    assert rows["company"]["client_id"] == COMPANY_CLIENT.id
    await _set_secret(replica, COMPANY_CLIENT.secret)
    await until(lambda: _has_token(replica, "@company"), "the new secret is not used")
    await replica.shows(r"token_broker_open_circuits{.+}", lambda value: value == 0)
    await scene.healed(replica)


async def _is_refused(replica: Replica) -> bool:
    answer = await replica.client.get("/tokens/@company")
    return bool(answer.status_code == 502 and answer.json()["code"] == "client_rejected")


async def _set_secret(replica: Replica, secret: str) -> None:
    answer = await replica.client.patch("/applications/company", json={"client_secret": secret}, headers=ADMIN)
    assert answer.status_code == 200, answer.text


@drill("TokenBrokerGrantsDying")
async def the_provider_disowns_many_grants_and_recovers(scene: Scene) -> None:
    await scene.prepare()
    dying, living = [f"dying{number}" for number in range(24)], [f"living{number}" for number in range(12)]
    replica = await scene.start()
    await scene.import_(replica, *dying, *living)
    await scene.calm(replica)
    await scene.versature.switch(fault="invalid_grant", fault_users=dying)
    for number, user in enumerate(living):
        for other in dying[2 * number : 2 * number + 2]:
            assert await replica.token(other) == 409
        await scene.trouble(replica)
        assert await replica.token(user) == 200
    rows = await scene.terminal.listed("grants list --state reauthorization_required")
    assert {(row["user"], row["reason"]) for row in rows} == {(user, "revoked") for user in dying}
    await scene.versature.switch(fault="none")
    await scene.terminal.type("grants revive dying0")
    assert await replica.token("dying0") == 200
    for user in dying[1:]:
        await scene.terminal.type(f"grants revive {user}")
    assert {await replica.token(user) for user in dying} == {200}
    await scene.healed(replica)


@drill("TokenBrokerLostGrant")
async def an_answer_is_lost_on_its_way(scene: Scene) -> None:
    await scene.prepare()
    replica = await scene.start()
    await scene.import_(replica, "alice")
    await scene.calm(replica)
    await scene.versature.switch(fault="drop_after", fault_times=1)
    assert await replica.token("alice") == 503
    await until(lambda: _is_lost(replica), "the grant is not found lost")
    await replica.shows(r"token_broker_lost_grants_total{.+}", lambda value: value == 1)
    await scene.trouble(replica)
    await scene.reconnect(replica, "alice")
    assert await replica.token("alice") == 200
    await scene.healed(replica)


async def _is_lost(replica: Replica) -> bool:
    answer = await replica.client.get("/tokens/alice")
    return bool(answer.status_code == 409 and answer.json()["reason"] == "lost_in_transit")


@drill("TokenBrokerClockSkew")
async def the_providers_clock_is_wrong(scene: Scene) -> None:
    await scene.prepare()
    await scene.versature.switch(token_lifetime_seconds=1)
    replica, skew = await scene.start(), r"token_broker_provider_clock_skew_seconds{.+}"
    assert await replica.token("@company") == 200
    await scene.calm(replica)
    scene.provider_clock.ahead = timedelta(minutes=5)
    await until(lambda: _shows_after_a_token(replica, skew, lambda value: value > 60), "the clock is not compared")
    await scene.trouble(replica)
    scene.provider_clock.ahead = timedelta(0)
    await until(lambda: _shows_after_a_token(replica, skew, lambda value: value < 60), "it is not compared again")
    await scene.healed(replica)


async def _shows_after_a_token(replica: Replica, series: str, judge: Callable[[float], bool]) -> bool:
    await replica.token("@company")
    return await replica.is_seen(series, judge)


@drill("TokenBrokerClockSkew", "TokenBrokerNotReady")
async def our_clock_is_wrong(scene: Scene) -> None:
    scene.on_postgresql()
    await scene.prepare()
    clock = SetClock()
    replica = await scene.start_here(clock)
    await scene.calm(replica)
    clock.ahead = timedelta(seconds=5)
    await replica.shows("token_broker_clock_skew_seconds", lambda value: value < -1)
    await replica.is_part("clock", "not_ready")
    await scene.trouble(replica)
    clock.ahead = timedelta(0)
    await replica.is_part("clock", "ready")
    await scene.healed(replica)
