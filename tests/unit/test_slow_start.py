"""The group at run time asks a member that has just returned less than the others, and only for a while."""

from collections import Counter
from typing import cast

from pyha.ha.selection import FIRST_PART, WARM_UP
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from pyha.runtime.settings import GroupSettings, MemberSettings
from pyha.runtime.uri import TokenUri


class Time:
    """A clock that counts how often it is read."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.now


def group_of(*names: str) -> tuple[GroupRuntime, Time]:
    time = Time()
    members = tuple(MemberSettings(TokenUri(token=name), name) for name in names)
    settings = GroupSettings("slow", bytes(16), "1", members)
    group = GroupRuntime(settings, 1, lambda index, generation: cast(Connection, None), clock=time)
    for index in range(len(names)):
        group.value = group.value.joined(index, 1)
    return group, time


def comes_back(group: GroupRuntime, index: int, now: float) -> None:
    lost = group.value.lost(index, group.value.members[index].generation, "gone").recovering(index)
    group.value = lost.returned(index, lost.members[index].generation, now)


def chosen(group: GroupRuntime, choices: int = 1000) -> Counter[int | None]:
    return Counter(group.choose(set(), spread=True) for _ in range(choices))


def test_a_returned_member_takes_a_growing_share() -> None:
    group, time = group_of("a", "b")
    comes_back(group, 1, time.now)
    assert chosen(group)[1] <= 1000 * FIRST_PART
    time.now += WARM_UP / 2
    assert abs(chosen(group)[1] - 250) <= 10
    time.now += WARM_UP / 2
    assert abs(chosen(group)[1] - 500) <= 10


def test_idle_beside_busy_ones_it_does_not_take_everything() -> None:
    group, time = group_of("a", "b", "c")
    comes_back(group, 1, time.now)
    group.loads[:] = [1.0, 0.0, 1.0]
    time.now += WARM_UP / 4
    assert abs(chosen(group)[1] - 250) <= 10


def test_who_is_alone_serves_at_once() -> None:
    group, time = group_of("a", "b")
    comes_back(group, 1, time.now)
    group.value = group.value.lost(0, 1, "gone")
    assert chosen(group, 10) == Counter({1: 10})


def test_a_call_that_has_only_the_returned_member_left_goes_there() -> None:
    group, time = group_of("a", "b")
    comes_back(group, 1, time.now)
    assert {group.choose({0}, spread=True) for _ in range(100)} == {1}


def test_reading_stays_with_the_primary() -> None:
    group, time = group_of("a", "b")
    comes_back(group, 0, time.now)
    assert {group.choose(set(), spread=False) for _ in range(100)} == {0}


def test_where_nobody_has_returned_lately_no_time_is_asked_for() -> None:
    group, time = group_of("a", "b")
    chosen(group, 100)
    assert time.asked == 0
    comes_back(group, 1, time.now)
    time.now += WARM_UP
    chosen(group, 1)
    before = time.asked
    chosen(group, 100)
    assert time.asked == before
