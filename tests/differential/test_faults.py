"""Random sequences while members are killed, stopped, hung or say that they are gone: the same answers, and the same
objects on every member that is in. Members come back or do not; one never fails."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cli import config_write
from pyha.ha.settings import RecoveryMode, RecoverySettings
from pyha.runtime import config
from pyha.runtime.settings import LogLevel
from tests.differential.drawn import EXAMPLES, play_drawn
from tests.differential.faults import Trouble
from tests.differential.play import Tally, play
from tests.differential.scene import Scene
from tests.integration.conftest import NO_RECOVERY, TestGroup

MEMBERS = 3
DEADLINE, SLOW_DEADLINE = 3.0, 6.0
"""Seconds: short, because sequences wait for them; long enough for a member that is only slow."""


@pytest.mark.parametrize("recovers", [False, True], ids=["lost", "recovered"])
def test_members_fail_and_the_answers_are_the_same(
    recovers: bool, group: Callable[..., TestGroup], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at_once = RecoverySettings(RecoveryMode.BACKGROUND, interval=0.05, attempts=-1)
    made = group(members=MEMBERS, label=f"troubled-{os.getpid()}", recovery=at_once if recovers else NO_RECOVERY)
    made.reconfigure(lambda group: replace(group, deadline=DEADLINE, slow_deadline=SLOW_DEADLINE))
    written = replace(config.load(str(made.conf)), log_level=LogLevel.NOTICE)
    config_write.write(str(made.conf), config_write.render(written))
    scene, tally = Scene(made, tmp_path, Trouble(made, tmp_path)), Tally()

    try:
        play_drawn("troubled", (MEMBERS,), 12, lambda sequence: play(scene, sequence, tally))
    finally:
        scene.close()
    with capsys.disabled():
        print(f"\n{tally}" if EXAMPLES else "")
    assert tally.faults.total() > tally.sequences
