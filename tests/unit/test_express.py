"""What the express way is told of a group, while other threads change it; and what is heard of a call of its own."""

import time
from typing import Any, cast

import pytest

from pyha.abi.codec import Codecs
from pyha.abi.link import open_local
from pyha.abi.native import lib
from pyha.cryptoki.functions import BY_NAME
from pyha.ha.selection import WARM_UP
from pyha.ha.settings import RecoveryMode, RecoverySettings
from pyha.runtime.express import Express
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import Connection
from pyha.runtime.settings import GroupSettings, MemberSettings
from pyha.runtime.straight import _remember
from pyha.runtime.uri import TokenUri
from tests.softhsm import MODULE

SIGN = BY_NAME["C_Sign"]
SETTINGS = GroupSettings(
    "payments",
    bytes(16),
    "1serial",
    tuple(MemberSettings(TokenUri(serial=name), name) for name in "ab"),
    recovery=RecoverySettings(RecoveryMode.BACKGROUND),
)


def connection(generation: int) -> Connection:
    return Connection("a", generation, cast(Any, None), TokenUri(token="a"), Codecs())


@pytest.fixture
def group() -> GroupRuntime:
    """With two members; what is opened for C is noted in `opened`."""
    made = GroupRuntime(SETTINGS, 1, cast(Any, None))
    made.value = made.value.joined(0, 1).joined(1, 1)
    made.connections[:] = [connection(1), connection(1)]
    opened: list[Any] = []
    cast(Any, made.express).open = lambda connections, patience: opened.append(connections)
    cast(Any, made).opened = opened
    return made


def test_who_is_out_is_not_opened_though_another_thread_is_late(group: GroupRuntime) -> None:
    before = group.value.serving()
    group.value = group.value.lost(0, 1, "out")
    # Another thread, which looked at the value before, has written down whom it saw.
    group._serving, group._serving_of = before, group.value
    group.choose(set(), True)
    assert cast(Any, group).opened == [[group.connections[1]]]


def test_the_only_one_that_serves_goes_express_after_its_return(group: GroupRuntime) -> None:
    group.value = group.value.lost(0, 1, "out").lost(1, 1, "out").recovering(1)
    returned = group.value.returned(1, group.value.members[1].generation, time.monotonic())
    group.value = returned
    group.choose(set(), True)
    assert cast(Any, group).opened == []
    later = time.monotonic() - WARM_UP
    group.value = group.value.lost(1, returned.members[1].generation, "out").recovering(1)
    group.value = group.value.returned(1, group.value.members[1].generation, later)
    group.choose(set(), True)
    assert cast(Any, group).opened == [[group.connections[1]]]


def test_the_call_in_which_the_helper_died_is_known_though_another_was_first() -> None:
    assert connection(1).lost_express(SIGN, lib.PYHA_CULPRIT, 0).culprit
    assert not connection(1).lost_express(SIGN, lib.PYHA_DEAD, 0).culprit


def test_a_mechanism_that_is_offered_no_more_is_not_remembered(group: GroupRuntime) -> None:
    told: list[str] = []

    class Books:
        def allow(self, mechanism: int, parameter_length: int) -> None:
            told.append("allow")

        def forbid(self) -> None:
            told.append("forbid")

    member = connection(1)
    member.seat = cast(Any, object())
    group.mechanisms = {}
    group.express.is_open = True
    cast(Any, group.express).books = Books()
    _remember(group, member, 0, 0, 0x1087, 0)
    assert told == ["allow", "forbid"]


def test_connections_that_are_gone_are_forgotten_though_the_way_is_never_opened() -> None:
    """A member that comes and goes all the time, and is never back for long enough."""
    link = open_local(MODULE)
    express = Express(0)
    for generation in range(20):
        each = connection(generation)
        each._link = link
        express.admit(0, each)
        each._leave_seat()
    assert len(express._seated) == 1
    link.close()
