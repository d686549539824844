"""Least busy: fewest expected seconds in flight; ties go round."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyha.ha.selection import FIRST_PART, WARM_UP, least_busy, mean_after, warmed


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


# Slow start


def taken(returned: dict[int, float], now: float, loads: list[float], choices: int = 1000) -> Counter[int]:
    """Who takes so many calls one after the other."""
    candidates = range(len(loads))
    return Counter(least_busy(warmed(candidates, returned, now, turn), loads, turn) for turn in range(choices))


@pytest.mark.parametrize(
    ("seconds", "part"), [(0.0, FIRST_PART), (WARM_UP / 4, 0.25), (WARM_UP / 2, 0.5), (WARM_UP, 1.0), (1e9, 1.0)]
)
def test_the_only_idle_member_takes_no_more_than_its_part_after_its_return(seconds: float, part: float) -> None:
    busy = [1.0, 1.0, 0.0]
    assert abs(taken({2: 100.0}, 100.0 + seconds, busy)[2] - 1000 * part) <= 10


def test_among_idle_members_it_comes_to_an_equal_share() -> None:
    shares = [taken({1: 0.0}, now, [0.0, 0.0])[1] for now in (0.0, WARM_UP / 4, WARM_UP / 2, WARM_UP)]
    assert shares == sorted(shares)
    assert shares[0] <= 1000 * FIRST_PART
    assert abs(shares[-1] - 500) <= 10


def test_who_was_never_away_is_always_a_candidate() -> None:
    assert all(0 in warmed((0, 1, 2), {1: 5.0, 2: 5.0}, 5.0, turn) for turn in range(1000))


def test_where_all_have_just_returned_nothing_waits() -> None:
    together = taken({0: 5.0, 1: 5.0}, 5.0, [0.0, 0.0])
    assert abs(together[0] - together[1]) <= 10
    assert warmed((1,), {1: 5.0}, 5.0, 7) == [1]


@given(
    st.dictionaries(st.integers(0, 7), st.floats(0, 1e6), max_size=8),
    st.integers(1, 8),
    st.floats(0, 2e6),
    st.integers(0, 1 << 40),
)
def test_somebody_is_always_left(returned: dict[int, float], count: int, now: float, turn: int) -> None:
    left = warmed(range(count), returned, now, turn)
    assert left
    assert set(left) <= set(range(count))
