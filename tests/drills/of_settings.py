"""Drills of what operators do: migrations, sealing keys, and grants that nobody renews."""

import base64
import contextlib
import sqlite3
from datetime import timedelta

from tests.drills.drill import drill
from tests.drills.scene import Replica, Scene, SetClock, until
from tests.support.brokers import SEALING_KEY

NEW_KEY = "new:" + base64.b64encode(b"n" * 32).decode()


@drill("TokenBrokerNotReady")
async def the_database_was_not_migrated(scene: Scene) -> None:
    scene.on_postgresql()
    replica = await scene.start()
    await replica.is_part("database", "not_ready")
    parts = (await replica.client.get("/readyz")).json()["parts"]
    assert "token-broker migrate" in parts["database"]["detail"]
    await scene.trouble(replica)
    await scene.terminal.type("migrate")
    await replica.shows(r'token_broker_part_state{.+,state="not_ready"}', lambda value: value == 0)
    await scene.healed(replica)


@drill("TokenBrokerKeyMissing", "TokenBrokerNotReady")
async def a_sealing_key_was_removed_too_early(scene: Scene) -> None:
    await scene.prepare()
    replica = await scene.start()
    await scene.import_(replica, "alice")
    await scene.calm(replica)
    await replica.stop()
    scene.set(BROKER_ENCRYPTION_KEYS=NEW_KEY)
    replica = await scene.start()
    answer = await replica.client.get("/tokens/alice")
    assert (answer.status_code, answer.json()["code"]) == (503, "key_unavailable")
    await replica.shows("token_broker_sealing_keys_missing", lambda value: value == 1)
    assert "a key is missing" in await scene.doctor_says("keys")
    await scene.trouble(replica)
    await replica.stop()
    scene.set(BROKER_ENCRYPTION_KEYS=f"{NEW_KEY},{SEALING_KEY}")
    replica = await scene.start()
    assert await replica.token("alice") == 200
    await scene.healed(replica)
    assert (await scene.doctor_says("keys")).startswith("ok")


@drill("TokenBrokerRefreshTokensEnding")
async def a_refresh_token_is_about_to_end(scene: Scene) -> None:
    await scene.prepare()
    long_ago = await scene.start_here(SetClock(-timedelta(days=85)))
    await scene.import_(long_ago, "alice")
    await scene.calm(long_ago)
    await long_ago.stop()
    await scene.versature.switch(fault="server_error")
    replica = await scene.start()
    await replica.shows(r'token_broker_refresh_tokens_ending{.+,days="7"}', lambda value: value == 1)
    await scene.trouble(replica)
    await scene.versature.switch(fault="none")
    await replica.shows(r'token_broker_renewals_total{.+,outcome="saved"}', lambda value: value == 1)
    await replica.stop()
    replica = await scene.start()  # grants are counted when a broker starts, and once a minute from then on
    await replica.shows(r'token_broker_grants{.+,state="connected"}', lambda value: value == 1)
    await scene.healed(replica)


@drill("TokenBrokerBackgroundLate")
async def nobody_renews_what_callers_use(scene: Scene) -> None:
    await scene.prepare()
    an_hour_ago = await scene.start_here(SetClock(-timedelta(hours=1)))
    await scene.import_(an_hour_ago, "alice", expires_in=600)
    assert await an_hour_ago.token("alice") == 200
    await until(lambda: _is_wanted(scene), "it is not noted that callers use the grant")
    await scene.calm(an_hour_ago)
    await an_hour_ago.stop()
    await scene.versature.switch(fault="server_error")
    replica = await scene.start()
    await replica.shows(r"token_broker_background_lag_seconds{.+}", lambda value: value > 900)
    await _failed(replica)
    await scene.trouble(replica)
    await scene.versature.switch(fault="none")
    await replica.shows(r'token_broker_renewals_total{.+,outcome="saved"}', lambda value: value == 1)
    await replica.stop()
    replica = await scene.start()
    await replica.shows(r"token_broker_active_grants{.+}", lambda value: value == 1)
    await scene.healed(replica)


async def _is_wanted(scene: Scene) -> bool:
    with contextlib.closing(sqlite3.connect(scene.folder / "broker.db")) as database:
        return database.execute("SELECT 1 FROM grants WHERE asked_at IS NOT NULL").fetchone() is not None


async def _failed(replica: Replica) -> None:
    await replica.shows(r'token_broker_renewals_total{.+,outcome="ambiguous"}', lambda value: value >= 1)
