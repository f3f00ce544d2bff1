import pytest

from tests.crash.soak import USERS, soak

pytestmark = pytest.mark.crash


async def test_a_fleet_that_is_killed_all_the_time_loses_nothing_but_answers_on_their_way() -> None:
    summary = await soak(20, kill_every=4)
    assert summary.unexplained == [], summary.lines()
    assert summary.not_working == 0, summary.lines()
    assert summary.served + len(summary.lost) == USERS
