"""Secret keys that look alike, told by marks of their values: what a plan makes of them (docs/resync.md)."""

from dataclasses import replace
from itertools import count

import pytest

from pyha.cryptoki import constants as ck
from pyha.ha.inventory import Held, HeldTombstone, Inventory, Settings, Side, name_of
from pyha.ha.marking import look_alikes, marked, of_names
from pyha.ha.resync import plan
from pyha.ha.steps import Copy, Delete, Plan
from pyha.ha.telling import action
from pyha.ha.tombstones import Tombstone
from tests.unit.model_tokens import GROUP, LEAVES, data, secret

_handles = count(1)


def key(mark: bytes, check_value: bytes = b"", settings: Settings = LEAVES) -> Held:
    return Held(next(_handles), secret(b"k", check_value), settings, mark)


def sides(*members: list[Held]) -> list[Side]:
    names = "abc"[: len(members)]
    return [Side(name, name, Inventory(tuple(held))) for name, held in zip(names, members, strict=True)]


def planned(*members: list[Held]) -> Plan:
    return plan(sides(*members), frozenset("abc"[: len(members)]))


@pytest.mark.parametrize("where", [0, 1, 2])
def test_what_nobody_has_finished_goes_where_the_key_is_there(where: int) -> None:
    members = [[key(b"m", b"123")] for _ in range(3)]
    left = key(b"m")
    members[where].insert(0, left)
    assert planned(*members).steps == (Delete(where, left.real, left.identity, False),)


def test_one_that_tells_its_check_value_goes_to_the_others() -> None:
    made = planned([key(b"m", b"123")], [key(b"m", b"123"), key(b"m", b"123")])
    assert [action(step) for step in made.steps] == ["copy"]


def test_what_two_members_have_is_no_remainder() -> None:
    both = [key(b"m", b"123"), key(b"m")], [key(b"m", b"123"), key(b"m")]
    made = planned(both[0], [key(b"m", b"123")], both[1])
    assert not [step for step in made.steps if isinstance(step, Delete)]
    assert sum(action(step) == "copy" for step in made.steps) == 1


def test_one_whose_making_came_to_its_end_stays() -> None:
    """An application unwrapped a key that it had while a member was away."""
    had, left = key(b"m", b"123"), key(b"m")
    told = Tombstone(GROUP, left.identity, left.identity, (), frozenset("b"), made=1)
    found = sides([had, left], [key(b"m", b"123")])
    found[0] = replace(found[0], inventory=replace(found[0].inventory, tombstones=(HeldTombstone(99, told),)))
    made = plan(found, frozenset("ab"))
    assert not [step for step in made.steps if isinstance(step, Delete)]
    assert sum(isinstance(step, Copy) for step in made.steps) == 1


def test_as_many_of_one_value_are_matched_though_some_tell_nothing() -> None:
    made = planned([key(b"m", b"123"), key(b"m")], [key(b"m", b"123"), key(b"m", b"123")])
    assert (made.steps, made.conflicts) == ((), ())


def test_one_with_other_attributes_is_another() -> None:
    other = tuple((kind, b"\0" if kind == ck.CKA_SIGN else value) for kind, value in LEAVES)
    made = planned([key(b"m", b"123")], [key(b"m", b"123"), key(b"m", b"", other)])
    assert not [step for step in made.steps if isinstance(step, Delete)]


@pytest.mark.parametrize(
    "left",
    [
        key(b"n"),  # another value, which nobody has proved
        key(b""),  # of which nothing is known
    ],
)
def test_nothing_is_done_about_what_is_not_proved(left: Held) -> None:
    made = planned([key(b"m", b"123")], [key(b"m", b"123"), left])
    assert made.steps == ()
    assert len(made.conflicts) == 2


def test_two_keys_of_which_no_check_value_is_told_are_left_alone() -> None:
    """Which of two records is that of which could not be told."""
    made = planned([key(b"m"), key(b"n")], [key(b"m")])
    assert made.steps == ()
    assert made.conflicts


def test_marks_are_asked_for_where_members_hold_more_and_fewer() -> None:
    one, two = key(b"", b"123"), key(b"")
    paper = [Held(next(_handles), data(b"d")) for _ in range(2)]
    found = sides([one, two, *paper], [key(b"", b"123"), paper[0]])
    names = look_alikes(found)
    assert names == {name_of(one.identity)}
    assert [len(of_names(side, names)) for side in found] == [2, 1]
    assert look_alikes(sides([one, two], [key(b""), key(b"")])) == names, "which of them has told its check value?"
    assert look_alikes(sides([two, key(b"")], [key(b""), key(b"")])) == frozenset()
    assert look_alikes(sides([one, one], [one, one])) == frozenset()
    assert look_alikes(sides([one], [])) == frozenset()


@pytest.mark.parametrize(
    ("ways", "expected"),
    [
        ([(b"d1", b"e1"), (b"d2", b"e2"), (b"d3", b"e3")], [b"d1", b"d2", b"d3"]),
        ([(b"d1", b"e1"), (b"", b"e2"), (b"d3", b"e3")], [b"e1", b"e2", b"e3"]),
        ([(b"d1", b""), (b"", b"e2"), (b"d3", b"e3")], [b"", b"", b""]),
    ],
)
def test_marks_are_compared_that_were_made_in_one_way(ways: list[tuple[bytes, bytes]], expected: list[bytes]) -> None:
    found = sides([key(b""), key(b"")], [key(b"")])
    reals = [held.real for side in found for held in side.inventory.objects]
    given = dict(zip(reals, ways, strict=True))
    marks = [{held.real: given[held.real] for held in side.inventory.objects} for side in found]
    after = marked(found, look_alikes(found), marks)
    assert [held.mark for side in after for held in side.inventory.objects] == expected
