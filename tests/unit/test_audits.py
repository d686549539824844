"""A member is compared with the others when it lacks an object: once for it, though its module overlooks it."""

from typing import Any, cast

import pytest

from pyha.cryptoki import constants as ck
from pyha.ha.steps import Plan
from pyha.runtime import comparing
from pyha.runtime.afresh import Unreadable
from pyha.runtime.group import GroupRuntime
from pyha.runtime.housekeeping import SearchFailed
from pyha.runtime.resync import Outcome
from pyha.runtime.settings import GroupSettings, MemberSettings
from pyha.runtime.uri import TokenUri

SETTINGS = GroupSettings(
    "payments", bytes(16), "1serial", tuple(MemberSettings(TokenUri(serial=name), name) for name in "ab")
)


class Compared:
    """Counts comparisons, each with an outcome of so many steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.done = 0
        self.now = 0.0
        self.group = GroupRuntime(SETTINGS, 1, cast(Any, None), clock=lambda: self.now)
        self.group.value = self.group.value.joined(0, 1).joined(1, 1)
        self.group.connections[:] = [cast(Any, object()), cast(Any, object())]
        self.group.user = ck.CKU_USER
        monkeypatch.setattr(comparing, "_seem_alike", lambda group: False)
        monkeypatch.setattr(comparing, "resynchronise", self._resynchronise)

    def _resynchronise(self, group: GroupRuntime, members: Any, dry: bool) -> Outcome:
        self.count += 1
        return Outcome(("a", "b"), Plan(), self.done, (), True)

    def misses(self, handle: int) -> int:
        """A call finds that an object is missing: how many comparisons there have been then."""
        self.group.news.audit(1, "an object is missing", handle)
        comparing.compare_if_asked(self.group)
        return self.count


def test_one_comparison_for_an_object_that_is_there_and_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = Compared(monkeypatch)
    assert [compared.misses(5) for _ in range(3)] == [1, 1, 1]
    assert compared.misses(6) == 2, "another object may be missing indeed"
    assert compared.misses(5) == 2


def test_a_comparison_that_fails_is_made_again_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = Compared(monkeypatch)
    interval = compared.group.recovery.interval

    def fails(*group: Any, **more: Any) -> Any:
        compared.count += 1
        raise Unreadable("a member cannot be read")

    monkeypatch.setattr(comparing, "resynchronise", fails)
    assert compared.misses(5) == 1
    for pause, count in ((0.9, 1), (0.2, 2), (0.9, 2), (1.2, 3)):
        compared.now += pause * interval
        comparing.compare_if_asked(compared.group)
        assert compared.count == count
    assert comparing.comparison_due(compared.group) == pytest.approx(compared.now + 4 * interval)
    assert compared.misses(6) == 4, "another reason does not wait"
    monkeypatch.setattr(comparing, "resynchronise", compared._resynchronise)
    compared.now += interval
    comparing.compare_if_asked(compared.group)
    assert compared.count == 5
    assert comparing.comparison_due(compared.group) is None


def test_a_member_that_cannot_say_what_it_holds_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = Compared(monkeypatch)
    monkeypatch.undo()

    def fails(*asked: Any) -> int:
        raise SearchFailed(ck.CKR_GENERAL_ERROR)

    monkeypatch.setattr(comparing, "_count", fails)
    compared.group.news.compare_soon()
    comparing.compare_if_asked(compared.group)
    assert comparing.comparison_due(compared.group) == compared.group.recovery.interval


def test_what_is_missing_after_a_resync_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = Compared(monkeypatch)
    compared.done = 1
    assert [compared.misses(5) for _ in range(2)] == [1, 2]
