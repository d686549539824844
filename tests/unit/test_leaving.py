"""A member that the operator takes out: who still gets to it, and when its connection ends. And one that comes later,
and what the group offers then."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from pyha.cryptoki.functions import BY_NAME
from pyha.ha.administration import Change, Configured, Kind, applied
from pyha.ha.group import Group, State
from pyha.ha.identity import Identity
from pyha.ha.settings import MechanismSnapshot
from pyha.runtime.everywhere import logout
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from pyha.runtime.settings import GroupSettings, MemberSettings
from pyha.runtime.uri import TokenUri

SIGN = BY_NAME["C_Sign"]
SETTINGS = GroupSettings(
    "payments", bytes(16), "1serial", tuple(MemberSettings(TokenUri(serial=name), name) for name in "ab")
)


@dataclass(eq=False)
class FakeConnection:
    """What the group knows of a connection."""

    generation: int = 1
    closed: int = 0
    stranger: str = ""
    bound: dict[int, int] = field(default_factory=dict)
    known: dict[int, int] = field(default_factory=dict)
    seat: None = None

    def bind(self, handle: int, real: int) -> None:
        self.bound[handle] = real

    def unbind(self, handle: int) -> None:
        self.bound.pop(handle, None)

    def close(self, cause: str = "") -> None:
        self.closed += 1

    def finish(self, deadline: float) -> None:
        self.closed += 1


@pytest.fixture
def group() -> GroupRuntime:
    made = GroupRuntime(SETTINGS, 1, lambda index, generation: cast(Any, FakeConnection()), clock=lambda: 0.0)
    made.value = made.value.joined(0, 1).joined(1, 1)
    made.connections[:] = [cast(Any, FakeConnection()), cast(Any, FakeConnection())]
    return made


def take_out(group: GroupRuntime, kind: Kind = Kind.REMOVED) -> FakeConnection:
    """The first member goes."""
    wanted = tuple(Configured(each.name, each.name) for each in SETTINGS.members)

    def change(value: Group, contacted: bool) -> Group:
        return applied(value, (0, 1), wanted, [Change(0, kind)], contacted)

    connection = cast(FakeConnection, group.connections[0])
    group.administer(SETTINGS, change)
    return connection


@pytest.mark.parametrize(("kind", "state"), [(Kind.REMOVED, State.REMOVED), (Kind.DISABLED, State.DISABLED)])
def test_it_gets_no_new_call_and_its_last_one_ends_there(group: GroupRuntime, kind: Kind, state: State) -> None:
    _, weight = group.enter(0, SIGN)
    connection = take_out(group, kind)
    assert group.value.members[0].state is state
    assert group.choose(set(), spread=False) == 1
    assert [index for index, _ in group.present()] == [1]
    assert group.leaving() == (0,)
    assert not group.retire(0, now=False), "a call is there still"
    assert connection.closed == 0
    group.leave(0, SIGN, weight, start=-0.1, served=True)
    assert group.retire(0, now=False)
    assert (connection.closed, group.connections[0], group.leaving()) == (1, None, ())


@pytest.mark.parametrize("kept", [None, "what it is made from"])
def test_a_session_object_that_cannot_follow_keeps_it_until_its_time_is_over(
    group: GroupRuntime, kept: str | None
) -> None:
    group.objects.made(cast(Identity, "a session key"), [], session=7, home=(0, 1), kept=cast(Any, kept))
    connection = take_out(group)
    assert group.retire(0, now=False) is (kept is not None)
    assert group.retire(0, now=True)
    assert connection.closed == 1


def test_a_logout_ends_it_at_once(group: GroupRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyha.runtime.everywhere._quietly", lambda *arguments: None)
    group.user = 1
    group.enter(0, SIGN)
    connection = take_out(group)
    assert logout(group) == 0
    assert connection.closed == 1, "it must not stay logged in"


def test_a_member_that_is_in_is_not_retired(group: GroupRuntime) -> None:
    assert group.retire(0, now=True)
    assert cast(FakeConnection, group.connections[0]).closed == 0


def test_a_loss_on_the_way_out_is_no_news(group: GroupRuntime) -> None:
    connection = take_out(group)
    group.lost(0, 1, "its helper ended")
    assert (group.value.members[0].state, group.value.members[0].losses) == (State.REMOVED, 0)
    assert (connection.closed, group.connections[0]) == (1, None)


def test_an_attempt_that_comes_back_after_the_removal_is_refused(group: GroupRuntime) -> None:
    group.lost(0, 1, "gone")
    generation = group.begin_recovery(0)
    assert generation is not None
    take_out(group)
    with pytest.raises(Exception, match="the operator took it out"):
        group.join(0, cast(Connection, FakeConnection(generation)), unsynchronised=False)
    assert group.connections[0] is None


def test_a_member_that_comes_later_narrows_what_the_group_offers(
    group: GroupRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {kind: MechanismSnapshot(kind, 128, 4096, 0xFF) for kind in (1, 2)}
    offer: Mapping[int, MechanismSnapshot] = {1: replace(wide[1], maximum=2048, flags=0x0F)}
    monkeypatch.setattr("pyha.runtime.group.offered", lambda connection, deadline: offer)
    group.mechanisms = dict(wide)
    group.learn_from(1, cast(Connection, FakeConnection()))
    assert group.mechanisms == {1: MechanismSnapshot(1, 128, 2048, 0x0F)}
    # Once it was learnt the member does not widen the list again, nor is it asked again.
    monkeypatch.setattr("pyha.runtime.group.offered", lambda connection, deadline: pytest.fail("asked again"))
    group.learn_from(1, cast(Connection, FakeConnection()))
