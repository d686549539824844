"""What of many failovers is told: the first of a loss at once, the others by their number."""

from pyha.runtime.failovers import Failovers

A, B = 0, 1


def test_sixty_four_calls_that_one_loss_moves() -> None:
    tally = Failovers()
    assert [tally.count(A, 1) for _ in range(64)] == [True] + [False] * 63
    assert tally.untold() == [(A, 63)]
    assert tally.untold() == []


def test_each_loss_and_each_member_has_its_own_first() -> None:
    tally = Failovers()
    assert tally.count(A, 1)
    assert tally.count(B, 1)
    assert tally.count(A, 2)
    assert not tally.count(A, 2)
    assert not tally.count(B, 1)
    assert sorted(tally.untold()) == [(A, 1), (B, 1)]
