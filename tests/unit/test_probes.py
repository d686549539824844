"""When an idle member is probed (SEMANTICS.md section 4): told the time, with members that only count."""

from typing import cast

from pyha.ha.group import Cause
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from pyha.runtime.settings import GroupSettings, MemberSettings
from pyha.runtime.uri import TokenUri


class Counted:
    """A member that is always there."""

    token_info = None

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.probes = 0

    def probe(self, deadline: float) -> str:
        self.probes += 1
        return ""


def test_a_member_is_probed_once_it_has_been_idle_and_not_when_it_just_came() -> None:
    now = 1000.0
    settings = GroupSettings("g", bytes(16), "1", (MemberSettings(TokenUri(token="a"), "a"),))
    group = GroupRuntime(settings, 1, lambda index, generation: cast(Connection, None), clock=lambda: now)
    group.lost(0, 0, "not there", Cause.LOST)
    generation = group.begin_recovery(0)
    assert generation is not None
    member = Counted(generation)
    group.join(0, cast(Connection, member), unsynchronised=False)
    group.probe_idle(10.0)
    assert member.probes == 0
    now += 10.0
    group.probe_idle(10.0)
    group.probe_idle(10.0)
    assert member.probes == 1
