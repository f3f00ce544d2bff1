"""Every alert is brought about on a running broker, its runbook is followed, and Prometheus judges both."""

from pathlib import Path

import pytest

from tests.drills.catalogue import DRILLS
from tests.drills.drill import Drill
from tests.drills.scene import scene_in
from tests.support.programs import needs_promtool
from tests.support.servers import Server

pytestmark = [
    pytest.mark.crash,
    pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning"),
    needs_promtool,
]


@pytest.mark.parametrize("drill", DRILLS, ids=lambda drill: drill.name)
async def test_the_alert_fires_and_following_its_runbook_ends_it(
    drill: Drill, tmp_path: Path, postgres: Server, redis: Server
) -> None:
    async with scene_in(tmp_path, drill.alerts, postgres, redis) as scene:
        await drill.play(scene)
        assert scene.watch.verdicts(tmp_path) == ""
