"""When a lost member is tried again: the seed's rule, with the `else` it lost (SEMANTICS.md section 4)."""

from pyha.ha.recovery import NEVER, Attempts, due_at
from pyha.ha.settings import RecoverySettings

EVERY_MINUTE = RecoverySettings(interval=60.0, attempts=-1)


def test_the_first_attempt_is_due_at_once() -> None:
    assert due_at(EVERY_MINUTE, Attempts()) == NEVER


def test_the_next_one_after_the_interval() -> None:
    attempts = Attempts().failed(100.0)
    assert due_at(EVERY_MINUTE, attempts) == 160.0


def test_without_end() -> None:
    attempts = Attempts()
    for minute in range(1000):
        attempts = attempts.failed(minute * 60.0)
    assert due_at(EVERY_MINUTE, attempts) == 999 * 60.0 + 60.0


def test_zero_attempts_switch_it_off() -> None:
    assert due_at(RecoverySettings(attempts=0), Attempts()) is None


def test_after_n_failures_it_ends() -> None:
    settings = RecoverySettings(interval=1.0, attempts=2)
    once = Attempts().failed(0.0)
    assert due_at(settings, once) == 1.0
    assert due_at(settings, once.failed(1.0)) is None


def test_the_count_starts_again_when_the_member_has_returned() -> None:
    settings = RecoverySettings(interval=1.0, attempts=2)
    back = Attempts().failed(0.0).returned(5.0)
    assert back.count == 0
    assert due_at(settings, back.failed(6.0)) == 7.0


def test_a_member_that_comes_and_goes_is_tried_no_more_often() -> None:
    back = Attempts().returned(100.0)
    assert due_at(EVERY_MINUTE, back) == 160.0


def test_where_objects_differ_it_is_looked_at_ever_more_rarely() -> None:
    attempts, pauses = Attempts(), []
    for _ in range(7):
        attempts = attempts.failed(1000.0, differs=True)
        due = due_at(EVERY_MINUTE, attempts)
        assert due is not None
        pauses.append((due - 1000.0) / 60.0)
    assert pauses == [1, 2, 4, 8, 16, 16, 16]


def test_after_another_failure_or_a_return_it_is_looked_at_soon() -> None:
    differed = Attempts().failed(0.0, differs=True).failed(60.0, differs=True)
    assert due_at(EVERY_MINUTE, differed) == 180.0
    assert due_at(EVERY_MINUTE, differed.failed(100.0)) == 160.0
    assert due_at(EVERY_MINUTE, differed.returned(100.0).failed(200.0, differs=True)) == 260.0
