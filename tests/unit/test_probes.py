"""When an idle member is probed (SEMANTICS.md section 4): told the time, with members that only count."""

import threading
from typing import Any, cast

from pyha.entry import guarded
from pyha.ha.group import Cause, State
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from pyha.runtime.monitor import PROBE_INTERVAL, Monitor
from pyha.runtime.settings import GroupSettings, MemberSettings
from pyha.runtime.uri import TokenUri

SETTINGS = GroupSettings("g", bytes(16), "1", (MemberSettings(TokenUri(token="a"), "a"),))


class Clock:
    """The time, as it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Counted:
    """A member that counts its probes. `ailment`: what they find."""

    token_info = None
    stranger = ""
    seat = native = None

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.ailment = ""
        self.probes = 0
        self.probed = threading.Event()
        self.closed = threading.Event()

    def probe(self, deadline: float) -> str:
        self.probes += 1
        self.probed.set()
        return self.ailment

    def close(self, cause: str) -> None:
        self.closed.set()


def just_returned(clock: Clock) -> tuple[GroupRuntime, Counted]:
    group = GroupRuntime(SETTINGS, 1, lambda index, generation: cast(Connection, None), clock)
    group.lost(0, 0, "not there", Cause.LOST)
    generation = group.begin_recovery(0)
    assert generation is not None
    member = Counted(generation)
    group.join(0, cast(Connection, member), unsynchronised=False)
    return group, member


def test_a_member_is_probed_once_it_has_been_idle_and_not_when_it_just_came() -> None:
    clock = Clock()
    group, member = just_returned(clock)
    group.probe_idle(10.0)
    assert member.probes == 0
    clock.now += 10.0
    group.probe_idle(10.0)
    group.probe_idle(10.0)
    assert member.probes == 1


class NoReload:
    """A configuration that stays as it is."""

    def look(self) -> None: ...

    def pause(self) -> float:
        return 0.01


def test_the_monitor_probes_and_who_fails_is_out_before_a_call_meets_it() -> None:
    clock = Clock()
    group, member = just_returned(clock)
    monitor = Monitor([group], cast(Any, NoReload()), guarded)
    monitor.ensure()
    try:
        clock.now += PROBE_INTERVAL
        assert member.probed.wait(30)
        assert group.value.members[0].state is State.IN
        member.ailment = "C_GenerateRandom answered CKR_DEVICE_ERROR"
        clock.now += PROBE_INTERVAL
        assert member.closed.wait(30)
        out = group.value.members[0]
        assert out.reason == f"a probe of the idle member failed: {member.ailment}"
        assert not group.value.serving()
    finally:
        monitor.stop()
