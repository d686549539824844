"""The failover loop alone, with members that are scripts: who is asked, how often, and what the application gets."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, Function
from pyha.runtime.failover import NotThere, run
from pyha.runtime.group import GroupRuntime, NobodyLeft
from pyha.runtime.member import Connection, MemberBusy, MemberLost, SessionRefused

Step = int | Exception


@dataclass
class FakeMember:
    """Answers the steps of its script one after the other, then CKR_OK. `well`: what a probe finds."""

    script: list[Step] = field(default_factory=list)
    well: bool = True
    generation: int = 1
    probed: int = 0

    def expect_well(self, name: str, rv: int, deadline: float) -> None:
        self.probed += 1
        if not self.well:
            raise MemberLost("the probe failed")

    logins: int = 0
    nonsense: int = 0

    def forget_login(self, since: int, deadline: float) -> None: ...


@dataclass
class FakeGroup:
    members: dict[int, FakeMember]
    user: int | None = None
    out: dict[int, str] = field(default_factory=dict)
    entered: int = 0
    served: int = 0
    failovers: list[tuple[str, int, str, int | None]] = field(default_factory=list)
    errors: list[tuple[int, int]] = field(default_factory=list)
    raw: bool = True  # nothing is replicated: there are no domain keys to look for

    def enter(self, index: int, function: Function) -> tuple[FakeMember, float]:
        self.entered += 1
        return self.members[index], 0.5

    def leave(self, index: int, function: Function, weight: float, start: float, served: bool) -> None:
        assert weight == 0.5
        self.entered -= 1
        self.served += served

    def clock(self) -> float:
        return 0.0

    def patience(self, function: Function) -> float:
        return 0.0

    def log_in_member(self, index: int, connection: FakeMember, deadline: float) -> bool:
        return True

    def lost(self, index: int, generation: int, reason: str, seconds: float) -> None:
        self.out[index] = reason

    @property
    def news(self) -> "FakeGroup":
        return self

    def count_error(self, index: int, rv: int) -> None:
        self.errors.append((index, rv))

    def nonsense(self, index: int, call: str) -> None:
        self.out[index] = "nonsense"

    def count_failover(self, call: str, lost: int, why: str, seconds: float, to: int | None) -> None:
        self.failovers.append((call, lost, why, to))

    def nobody_left(self) -> NobodyLeft:
        return NobodyLeft(True)


class FakePolicy:
    """Asks members in order. `heals`: whether a remedy finds something to do."""

    def __init__(self, group: FakeGroup, name: str = "C_GenerateRandom", heals: bool = True) -> None:
        self.function = BY_NAME[name]
        self.asked: list[int] = []
        self.healed: list[str] = []
        self._group = group
        self._heals = heals

    def choose(self, excluded: set[int]) -> int | None:
        left = [index for index in self._group.members if index not in excluded and index not in self._group.out]
        return left[0] if left else None

    def attempt(self, index: int, connection: Any, deadline: float) -> tuple[int, list[Any]]:
        self.asked.append(index)
        step = connection.script.pop(0) if connection.script else ck.CKR_OK
        if isinstance(step, Exception):
            raise step
        return step, [index]

    def renew_session(self, index: int, connection: Connection, deadline: float) -> bool:
        self.healed.append("session")
        return self._heals

    def renew_handles(self, index: int, connection: Connection, deadline: float) -> bool:
        self.healed.append("handles")
        return self._heals


def go(*scripts: list[Step], user: int | None = None, heals: bool = True, well: bool = True) -> tuple[Any, ...]:
    group = FakeGroup({index: FakeMember(list(script), well) for index, script in enumerate(scripts)}, user)
    policy = FakePolicy(group, heals=heals)
    rv, _ = run(cast(GroupRuntime, group), policy, serves=True)
    assert not group.entered
    assert group.served == (rv == ck.CKR_OK)
    return rv, policy.asked, sorted(group.out), policy.healed


gone: Callable[[], MemberLost] = lambda: MemberLost("gone")  # noqa: E731
crash: Callable[[], MemberLost] = lambda: MemberLost("crashed", culprit=True)  # noqa: E731


@pytest.mark.parametrize(
    ("scripts", "rv", "asked", "out", "healed"),
    [
        # a member that answers is not failed
        ([[ck.CKR_OK], []], ck.CKR_OK, [0], [], []),
        ([[ck.CKR_KEY_SIZE_RANGE], []], ck.CKR_KEY_SIZE_RANGE, [0], [], []),
        # a member that is gone, or says so, is left out and the next one answers
        ([[gone()], []], ck.CKR_OK, [0, 1], [0], []),
        ([[ck.CKR_DEVICE_REMOVED], []], ck.CKR_OK, [0, 1], [0], []),
        ([[gone()], [gone()], []], ck.CKR_OK, [0, 1, 2], [0, 1], []),
        # healed once, on the same member
        ([[ck.CKR_SESSION_HANDLE_INVALID], []], ck.CKR_OK, [0, 0], [], ["session"]),
        ([[ck.CKR_KEY_HANDLE_INVALID], []], ck.CKR_OK, [0, 0], [], ["handles"]),
        # and no more than once
        (
            [[ck.CKR_SESSION_HANDLE_INVALID, ck.CKR_SESSION_HANDLE_INVALID], []],
            ck.CKR_SESSION_HANDLE_INVALID,
            [0, 0],
            [],
            ["session"],
        ),
        # each remedy has its turn
        (
            [[ck.CKR_SESSION_CLOSED, ck.CKR_OBJECT_HANDLE_INVALID, ck.CKR_OK]],
            ck.CKR_OK,
            [0, 0, 0],
            [],
            ["session", "handles"],
        ),
        # a session that the application may not have is its answer
        ([[SessionRefused(ck.CKR_SESSION_COUNT)], []], ck.CKR_SESSION_COUNT, [0], [], []),
        # an object that one member lacks is used where it is; nobody is lost for it
        ([[NotThere(ck.CKR_KEY_HANDLE_INVALID)], []], ck.CKR_OK, [0, 1], [], []),
        ([[MemberBusy(ck.CKR_DEVICE_ERROR)], []], ck.CKR_OK, [0, 1], [], []),
        ([[MemberBusy(ck.CKR_DEVICE_ERROR)]], ck.CKR_DEVICE_ERROR, [0], [], []),
        (
            [[NotThere(ck.CKR_KEY_HANDLE_INVALID)], [NotThere(ck.CKR_KEY_HANDLE_INVALID)]],
            ck.CKR_KEY_HANDLE_INVALID,
            [0, 1],
            [],
            [],
        ),
        # one that crashes helpers gets its error after two of them, and the third stays
        ([[crash()], [crash()], []], ck.CKR_DEVICE_ERROR, [0, 1], [0, 1], []),
        # helpers that died of something else do not count
        ([[gone()], [crash()], []], ck.CKR_OK, [0, 1, 2], [0, 1], []),
    ],
)
def test_who_is_asked(scripts: list[list[Step]], rv: int, asked: list[int], out: list[int], healed: list[str]) -> None:
    assert go(*scripts) == (rv, asked, out, healed)


def test_an_ambiguous_answer_of_a_healthy_member_is_the_answer() -> None:
    assert go([ck.CKR_GENERAL_ERROR], [], well=True) == (ck.CKR_GENERAL_ERROR, [0], [], [])


def test_an_ambiguous_answer_of_a_member_that_fails_its_probe_is_its_loss() -> None:
    group = FakeGroup({0: FakeMember([ck.CKR_GENERAL_ERROR], well=False), 1: FakeMember()})
    policy = FakePolicy(group)
    rv, results = run(cast(GroupRuntime, group), policy)
    assert (rv, results, sorted(group.out)) == (ck.CKR_OK, [1], [0])
    assert group.members[0].probed == 1
    assert group.members[1].probed == 0


def test_a_lost_login_is_healed_only_for_who_logged_in() -> None:
    assert go([ck.CKR_USER_NOT_LOGGED_IN], user=None) == (ck.CKR_USER_NOT_LOGGED_IN, [0], [], [])
    assert go([ck.CKR_USER_NOT_LOGGED_IN], user=ck.CKU_USER) == (ck.CKR_OK, [0, 0], [], ["session"])


def test_nothing_to_heal_is_the_answer() -> None:
    assert go([ck.CKR_SESSION_HANDLE_INVALID], [], heals=False)[:3] == (ck.CKR_SESSION_HANDLE_INVALID, [0], [])


def test_the_loss_of_the_last_member_is_told() -> None:
    with pytest.raises(NobodyLeft):
        go([gone()], [gone()])


def test_answers_and_failovers_are_counted() -> None:
    script: list[Step] = [ck.CKR_SESSION_HANDLE_INVALID, ck.CKR_DEVICE_REMOVED]
    group = FakeGroup({0: FakeMember(script), 1: FakeMember([ck.CKR_DATA_LEN_RANGE])})
    assert run(cast(GroupRuntime, group), FakePolicy(group))[0] == ck.CKR_DATA_LEN_RANGE
    assert group.errors == [(0, ck.CKR_SESSION_HANDLE_INVALID), (0, ck.CKR_DEVICE_REMOVED), (1, ck.CKR_DATA_LEN_RANGE)]
    assert group.failovers == [("C_GenerateRandom", 0, "C_GenerateRandom answered CKR_DEVICE_REMOVED", 1)]


def test_a_loss_after_which_nobody_is_left_is_no_failover() -> None:
    group = FakeGroup({0: FakeMember([gone()])})
    with pytest.raises(NobodyLeft):
        run(cast(GroupRuntime, group), FakePolicy(group))
    assert group.failovers == []
