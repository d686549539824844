"""Copies that are made several at once: which, how many, and what each of them comes to."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from pyha.ha.identity import Identity, identity_of, ulong
from pyha.ha.steps import Clear, Copy, Step
from pyha.runtime import together
from pyha.runtime.failover import Tried

DATA = ulong(ck.CKO_DATA)


class Stage:
    """Two members of which the first has data objects, by handle; `slow`: seconds that each call takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.slow = 0.0001
        self.held: dict[int, dict[int, bytes]] = {}
        self.made: list[int] = []
        self.alone: list[int] = []
        self.rvs: dict[int, int] = {}
        self.disturbed = False
        self.hidden: set[int] = set()
        group: Any = SimpleNamespace(clock=lambda: self.now, deadline=lambda: 1.0, log_in_member=lambda *told: True)
        self.members: Any = [(0, SimpleNamespace(logins=1)), (1, SimpleNamespace(logins=1))]
        self.group = group
        monkeypatch.setattr(together, "_shown", self._shown)
        monkeypatch.setattr(together, "_create", self._create)
        monkeypatch.setattr(together, "clone", lambda group, source, real, target, copy: self.alone.append(real))
        monkeypatch.setattr(together, "create_copy", self._ended)
        self.together = together.Together(group, lambda: self.disturbed)
        self.ended: list[int] = []

    def hold(self, label: bytes) -> Copy:
        """One object on the first member, and its copy."""
        real = len(self.held) + 1
        self.held[real] = shown(label)
        return Copy(1, 0, real, told(label), ())

    def _shown(self, group: Any, place: Any, reals: Any, wanted: Any) -> Any:
        self.now += self.slow * len(reals)
        return [dict(self.held[real % 100]) if real not in self.hidden else None for real in reals]

    def _create(self, group: Any, place: Any, begun: Any) -> None:
        for each in begun:
            self.now += self.slow
            rv = self.rvs.get(each.copy.real, ck.CKR_OK)
            each.tried = Tried(1, place[1], self.now, 1, 0, rv, [each.copy.real + 100 if rv == ck.CKR_OK else 0], None)
            if rv == ck.CKR_OK:
                self.made.append(each.copy.real)

    def _ended(self, group: Any, target: Any, copy: Copy, template: Any, tried: Tried) -> Any:
        self.ended.append(copy.real)
        return copy.real + 100, None

    def begin(self, steps: list[Step], at: int = 0, void: Callable[[Copy], bool] = lambda copy: False) -> list[Any]:
        """What each of the copies that are begun comes to: its handle, or nothing."""
        rests = self.together.begin(steps, at, self.members, void)
        if not rests:
            self.now += 3 * self.slow  # by itself
        copied = [rest() for rest in rests]
        return [each and each[0] for each in copied]

    def all(self, steps: list[Step]) -> list[int]:
        """How many go together, from the first one on."""
        counts: list[int] = []
        while sum(counts) < len(steps):
            counts.append(len(self.begin(steps, sum(counts))) or 1)
        return counts


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def shown(label: bytes) -> dict[int, bytes]:
    return {ck.CKA_CLASS: DATA, ck.CKA_TOKEN: b"\1", ck.CKA_LABEL: label, ck.CKA_PRIVATE: b"\0", ck.CKA_VALUE: b"value"}


def told(label: bytes) -> Identity:
    return identity_of(shown(label))


def test_more_go_together_as_long_as_they_take_no_time(stage: Stage) -> None:
    assert stage.all([stage.hold(b"%d" % number) for number in range(50)]) == [1, 2, 4, 8, 16, 16, 3]
    assert stage.made == list(range(2, 51))


def test_of_a_slow_member_each_goes_by_itself(stage: Stage) -> None:
    """What was read would be old when it is created."""
    stage.slow = 0.02
    assert stage.all([stage.hold(b"%d" % number) for number in range(4)]) == [1, 1, 1, 1]


def test_a_member_that_becomes_slow(stage: Stage) -> None:
    steps: list[Step] = [stage.hold(b"%d" % number) for number in range(20)]
    assert [len(stage.begin(steps, at)) for at in (0, 1, 3)] == [0, 2, 4]
    stage.slow = 0.1
    assert [len(stage.begin(steps, at)) for at in (7, 15)] == [8, 0]


def test_only_what_is_alike_goes_together(stage: Stage) -> None:
    stage.all([stage.hold(b"%d" % number) for number in range(7)])
    other = Copy(0, 1, 1, told(b"0"), ())
    key = Copy(1, 0, 1, identity_of({ck.CKA_CLASS: ulong(ck.CKO_SECRET_KEY)}), ())
    copies = [stage.hold(b"a"), stage.hold(b"b")]
    clear: Any = Clear(1, 1, b"", None)  # type: ignore[arg-type]
    for last in (other, key, clear):
        assert len(stage.begin([*copies, last, *copies])) == 2
    assert stage.begin([key, *copies]) == []
    assert stage.begin([clear, *copies]) == []


def test_what_is_another_object_by_now_is_not_made(stage: Stage) -> None:
    stage.all([stage.hold(b"%d" % number) for number in range(7)])
    copies = [stage.hold(b"a"), stage.hold(b"b"), stage.hold(b"c")]
    stage.held[9] = shown(b"another")
    stage.made.clear()
    assert stage.begin([*copies]) == [108, None, 110]
    assert stage.made == [8, 10]


def test_what_somebody_else_has_made_is_not_made(stage: Stage) -> None:
    stage.all([stage.hold(b"%d" % number) for number in range(7)])
    copies = [stage.hold(b"a"), stage.hold(b"b")]
    stage.made.clear()
    assert stage.begin([*copies], void=lambda copy: copy.real == 8) == [None, 109]
    assert stage.made == [9]


def test_what_is_not_as_usual_is_done_by_itself(stage: Stage) -> None:
    """What is not shown at once; a creation that was refused, and is not simply made once more; a copy
    that cannot be read back."""
    stage.all([stage.hold(b"%d" % number) for number in range(7)])
    copies = [stage.hold(b"%d" % number) for number in range(8, 13)]
    stage.hidden = {8, 111}
    stage.rvs = {10: ck.CKR_GENERAL_ERROR}
    assert stage.begin([*copies]) == [None, 109, 110, 111, 112]
    assert (stage.alone, stage.ended) == ([8], [10, 11])


def test_a_login_that_went_meanwhile(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handles may have gone with it."""
    stage.all([stage.hold(b"%d" % number) for number in range(3)])
    create = stage._create

    def forgets(group: Any, place: Any, begun: Any) -> None:
        create(group, place, begun)
        place[1].logins += 1

    monkeypatch.setattr(together, "_create", forgets)
    stage.begin([stage.hold(b"a"), stage.hold(b"b")])
    assert stage.ended == [4, 5]


def test_whoever_comes_between_makes_each_be_read_again(stage: Stage) -> None:
    stage.all([stage.hold(b"%d" % number) for number in range(3)])
    stage.made.clear()
    stage.disturbed = True
    stage.begin([stage.hold(b"a"), stage.hold(b"b")])
    assert (stage.made, stage.alone) == ([], [4, 5])
