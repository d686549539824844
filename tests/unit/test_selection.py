"""Least busy: fewest expected seconds in flight; ties go round."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pyha.ha.selection import least_busy, mean_after


@given(st.lists(st.floats(0, 10), min_size=1, max_size=8), st.integers(0, 1000))
def test_nobody_is_less_busy_than_the_chosen(loads: list[float], turn: int) -> None:
    candidates = range(len(loads))
    assert loads[least_busy(candidates, loads, turn)] == min(loads)


@given(st.integers(1, 8))
def test_idle_members_are_taken_in_turn(count: int) -> None:
    chosen = Counter(least_busy(range(count), [0.0] * count, turn) for turn in range(count * 5))
    assert chosen == Counter(dict.fromkeys(range(count), 5))


def test_only_candidates_are_taken() -> None:
    assert least_busy((2,), [0.0, 0.0, 9.0], 5) == 2


def test_the_mean_starts_with_the_first_duration_and_follows_a_change() -> None:
    mean = mean_after(None, 4.0)
    assert mean == 4.0
    for _ in range(100):
        mean = mean_after(mean, 1.0)
    assert abs(mean - 1.0) < 0.001
