"""For each route and each sort of answer: which members are asked, how often, with which remedy, and what the
application gets. Members are scripts; the loops are those of `pyha.runtime.failover` and `pyha.runtime.everywhere`."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, Route
from pyha.cryptoki.names import rv_name
from pyha.cryptoki.verdicts import Verdict, verdict
from pyha.runtime.everywhere import _on_primary
from pyha.runtime.failover import run
from pyha.runtime.group import GroupRuntime
from tests.unit.test_failover_loop import FakeGroup, FakeMember, FakePolicy, Step, crash, gone

OF_ROUTE = {
    Route.ANY: "C_GenerateRandom",
    Route.READ: "C_GetAttributeValue",
    Route.SEARCH: "C_FindObjectsInit",
    Route.START: "C_SignInit",
    Route.CONTINUE: "C_SignUpdate",
    Route.FINISH: "C_Sign",
    Route.CREATE: "C_CreateObject",
    Route.CHANGE: "C_DestroyObject",
}
EVERY = "C_SeedRandom"
SESSION, ACTIVE, NONE_OPEN = ck.CKR_SESSION_HANDLE_INVALID, ck.CKR_OPERATION_ACTIVE, ck.CKR_OPERATION_NOT_INITIALIZED
LOGIN, HANDLE, SUSPECT, REMOVED = (
    ck.CKR_USER_NOT_LOGGED_IN,
    ck.CKR_KEY_HANDLE_INVALID,
    ck.CKR_GENERAL_ERROR,
    ck.CKR_DEVICE_REMOVED,
)
ARGUMENT = ck.CKR_DATA_LEN_RANGE

# What member 0 answers first -> who is asked then, and what is done about it; the last answer is CKR_OK but for the
# one that is the application's.
ALL = {
    ARGUMENT: ([0], [], ARGUMENT),
    SESSION: ([0, 0], ["session"], ck.CKR_OK),
    LOGIN: ([0, 0], ["session"], ck.CKR_OK),
    HANDLE: ([0, 0], ["handles"], ck.CKR_OK),
    SUSPECT: ([0], [], SUSPECT),
    REMOVED: ([0, 1], [], ck.CKR_OK),
    ACTIVE: ([0], [], ACTIVE),
    NONE_OPEN: ([0], [], NONE_OPEN),
}
"""Where the route makes no difference."""

SPOILT = ([0, 0], ["session"], ck.CKR_OK)
OWN = {
    (Route.START, ACTIVE): SPOILT,
    (Route.SEARCH, ACTIVE): SPOILT,
    (Route.CONTINUE, NONE_OPEN): SPOILT,
    (Route.FINISH, NONE_OPEN): SPOILT,
}


def cases() -> Iterator[Any]:
    for route, name in OF_ROUTE.items():
        for rv, expected in ALL.items():
            yield pytest.param(name, rv, OWN.get((route, rv), expected), id=f"{name} {rv_name(rv)}")


def test_every_verdict_and_every_route_that_reaches_members_is_here() -> None:
    assert {verdict(BY_NAME[name].route, rv) for name in OF_ROUTE.values() for rv in ALL} == set(Verdict)
    assert all(BY_NAME[name].route is route for route, name in OF_ROUTE.items())
    assert {*OF_ROUTE, BY_NAME[EVERY].route} == set(Route) - {Route.NATIVE, Route.LOCAL, Route.REFUSE}


def played(name: str, *members: FakeMember) -> tuple[int, FakePolicy, FakeGroup]:
    group = FakeGroup(dict(enumerate(members)), ck.CKU_USER)
    policy = FakePolicy(group, name)
    rv, _ = run(cast(GroupRuntime, group), policy)
    return rv, policy, group


@pytest.mark.parametrize(("name", "rv", "expected"), list(cases()))
def test_one_answer(name: str, rv: int, expected: tuple[list[int], list[str], int]) -> None:
    asked, healed, answer = expected
    found, policy, group = played(name, FakeMember([rv]), FakeMember(), FakeMember())
    assert (policy.asked, policy.healed, found) == (asked, healed, answer)
    assert sorted(group.out) == ([0] if asked == [0, 1] else [])
    assert [member.probed for member in group.members.values()] == [int(rv == SUSPECT), 0, 0]


@pytest.mark.parametrize("name", OF_ROUTE.values())
def test_the_same_answer_again_after_its_remedy(name: str) -> None:
    for rv in (SESSION, LOGIN, HANDLE):
        found, policy, group = played(name, FakeMember([rv, rv]), FakeMember())
        assert (policy.asked, found, group.out) == ([0, 0], rv, {})


@pytest.mark.parametrize("name", OF_ROUTE.values())
def test_an_ambiguous_answer_and_a_probe_that_fails(name: str) -> None:
    found, policy, group = played(name, FakeMember([SUSPECT], well=False), FakeMember([SUSPECT]), FakeMember())
    assert (policy.asked, found, sorted(group.out)) == ([0, 1], SUSPECT, [0])
    assert [member.probed for member in group.members.values()] == [1, 1, 0]


class Nonsense(FakeMember):
    """Its first answer is one that cannot be."""

    @property
    def nonsense(self) -> int:
        return int(not self.script)

    @nonsense.setter
    def nonsense(self, count: int) -> None: ...


@pytest.mark.parametrize("name", OF_ROUTE.values())
def test_an_answer_that_cannot_be(name: str) -> None:
    """What makes or changes nothing is asked of another member; nobody is lost for it."""
    found, policy, group = played(name, Nonsense([ck.CKR_DEVICE_ERROR]), FakeMember())
    again = BY_NAME[name].route not in (Route.CREATE, Route.CHANGE)
    assert (policy.asked, found) == (([0, 1], ck.CKR_OK) if again else ([0], ck.CKR_DEVICE_ERROR))
    assert group.out == {0: "nonsense"}


@pytest.mark.parametrize("name", OF_ROUTE.values())
def test_helpers_that_end(name: str) -> None:
    found, policy, group = played(name, FakeMember([gone()]), FakeMember([gone()]), FakeMember())
    assert (policy.asked, found, sorted(group.out)) == ([0, 1, 2], ck.CKR_OK, [0, 1])
    found, policy, group = played(name, FakeMember([crash()]), FakeMember([crash()]), FakeMember())
    assert (policy.asked, found, sorted(group.out)) == ([0, 1], ck.CKR_DEVICE_ERROR, [0, 1])


# Every member, the primary's answer


class Every(FakeGroup):
    """What a call that goes to every member asks of its group for the primary's answer."""

    def login_order(self) -> list[tuple[int, FakeMember]]:
        left = [(index, member) for index, member in self.members.items() if index not in self.out]
        if not left:
            raise self.nobody_left()
        return left

    def deadline(self, slow: bool = False) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("scripts", "well", "asked", "answer"),
    [
        ([[ck.CKR_OK]], True, [0], ck.CKR_OK),
        ([[ARGUMENT]], True, [0], ARGUMENT),
        ([[ck.CKR_PIN_INCORRECT]], True, [0], ck.CKR_PIN_INCORRECT),
        ([[SESSION]], True, [0, 0], ck.CKR_OK),
        ([[SESSION, SESSION]], True, [0, 0], SESSION),
        ([[LOGIN]], True, [0], LOGIN),
        ([[HANDLE]], True, [0], HANDLE),
        ([[ACTIVE]], True, [0], ACTIVE),
        ([[SUSPECT]], True, [0], SUSPECT),
        ([[SUSPECT], []], False, [0, 1], ck.CKR_OK),
        ([[REMOVED], []], True, [0, 1], ck.CKR_OK),
        ([[gone()], [gone()], []], True, [0, 1, 2], ck.CKR_OK),
        ([[crash()], [crash()], []], True, [0, 1], ck.CKR_DEVICE_ERROR),
    ],
)
def test_the_primarys_answer(scripts: list[list[Step]], well: bool, asked: list[int], answer: int) -> None:
    group = Every({index: FakeMember(list(script), well) for index, script in enumerate(scripts)})
    found: list[int] = []

    def call(connection: Any, deadline: float) -> int:
        found.append(next(index for index, member in group.members.items() if member is connection))
        step = connection.script.pop(0) if connection.script else ck.CKR_OK
        if isinstance(step, Exception):
            raise step
        return cast(int, step)

    rv = _on_primary(cast(GroupRuntime, group), BY_NAME[EVERY], call)
    assert (found, rv) == (asked, answer)
    assert set(group.out) >= set(asked) - {asked[-1]}
