"""From the members as they run and as they are configured now, to what happens to each."""

from dataclasses import replace

import pytest

from pyha.ha.administration import Change, Configured, Kind, applied, arrange
from pyha.ha.group import Group, Member, State
from pyha.ha.settings import Role

A, B, C = (Configured(key, f"hsm-{key}") for key in "abc")


def kinds(changes: tuple[Change, ...]) -> list[tuple[int, Kind]]:
    return [(change.index, change.kind) for change in changes]


@pytest.mark.parametrize(
    ("wanted", "order", "expected"),
    [
        pytest.param((A, B), (0, 1), [], id="nothing"),
        pytest.param((B, A), (1, 0), [], id="another order"),
        pytest.param((A, B, C), (0, 1, 2), [(2, Kind.ADDED)], id="one more"),
        pytest.param((C, A, B), (2, 0, 1), [(2, Kind.ADDED)], id="one more, first in the file"),
        pytest.param((B,), (1,), [(0, Kind.REMOVED)], id="the founding one gone"),
        pytest.param((C,), (2,), [(0, Kind.REMOVED), (1, Kind.REMOVED), (2, Kind.ADDED)], id="all new"),
        pytest.param((replace(A, role=Role.STANDBY), B), (0, 1), [(0, Kind.STANDBY)], id="standby"),
        pytest.param((replace(A, enabled=False), B), (0, 1), [(0, Kind.DISABLED)], id="disabled"),
        pytest.param((replace(A, name="new"), B), (0, 1), [(0, Kind.RENAMED)], id="renamed"),
        pytest.param((replace(A, recover=1), B), (0, 1), [(0, Kind.RECOVER)], id="to be tried"),
        pytest.param((replace(A, recover=1, enabled=False), B), (0, 1), [(0, Kind.DISABLED)], id="disabled, not tried"),
        pytest.param((A, B, replace(C, enabled=False)), (0, 1, 2), [(2, Kind.DISABLED)], id="one more, disabled"),
    ],
)
def test_what_happens(wanted: tuple[Configured, ...], order: tuple[int, ...], expected: list[tuple[int, Kind]]) -> None:
    found, changes = arrange((A, B), (), wanted)
    assert (found, kinds(changes)) == (order, expected)


def test_a_removed_member_gets_its_index_back() -> None:
    assert kinds(arrange((A, B), (0,), (A, B))[1]) == [(0, Kind.ADDED)]
    assert kinds(arrange((A, B), (0,), (B,))[1]) == [], "it is removed once"


def test_an_older_file_asks_for_no_attempt() -> None:
    assert arrange((replace(A, recover=5), B), (), (replace(A, recover=4), B))[1] == ()


def test_a_member_that_was_disabled_and_is_added_again_is_added() -> None:
    assert kinds(arrange((replace(A, enabled=False), B), (0,), (A, B))[1]) == [(0, Kind.ADDED)]


def test_the_group_follows_the_configured_order() -> None:
    group = Group((Member("hsm-a", place=0), Member("hsm-b", place=1))).joined(0, 1).joined(1, 1)
    wanted = (C, B, replace(A, role=Role.STANDBY))
    order, changes = arrange((A, B), (), wanted)
    after = applied(group, order, wanted, changes, contacted=True)
    assert after.configured() == (2, 1, 0)
    assert after.present() == (1, 0)
    assert (after.members[2].name, after.members[2].state) == ("hsm-c", State.FAILED)
    assert after.recovering(2).returned(2, 1, 0.0).serving() == (2, 1)


def test_a_part_of_the_changes_leaves_the_others_for_later() -> None:
    group = Group((Member("hsm-a", place=0), Member("hsm-b", place=1))).joined(0, 1).joined(1, 1)
    order, changes = arrange((A, B), (), (C,))
    first = applied(group, order, (C,), [change for change in changes if change.kind is Kind.ADDED], contacted=True)
    assert first.serving() == (0, 1)
    last = applied(first, order, (C,), [change for change in changes if change.kind is Kind.REMOVED], contacted=True)
    assert last.serving() == ()
    assert [member.state for member in last.members] == [State.REMOVED, State.REMOVED, State.FAILED]
