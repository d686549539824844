"""A member forgets its sessions or its login at any call of a creation or change: the application sees nothing of it.

The fault is put at one call of the member, then at a later one, until the whole of it went by without a fault. With
PYHA_EVERY_CALL set in the environment no call is left out (minutes); else every third is tried, from another on in
each test.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.application import Application
from tests.chaos import Plan, behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import Scene, scene
from tests.integration.test_replication_faults import MAKERS, aes, pair

Group = Callable[..., TestGroup]

_STEP = 1 if "PYHA_EVERY_CALL" in os.environ else 3
_QUIET = 7
"""Calls in a row that the fault cannot meet (they have no session), or that are not made any more."""


def at_each_call(plan: Plan, action: str, first: int) -> Iterator[int]:
    """The number of the call that the fault will be at, again and again."""
    quiet, number = 0, first % _STEP + 1 - _STEP
    while quiet * _STEP < _QUIET:
        number += _STEP
        plan.set(f"any nth={number} once -> {action}")
        before = len(plan.fired())
        yield number
        quiet = 0 if len(plan.fired()) > before else quiet + 1
        plan.set()


def labelled(it: Scene, label: bytes) -> list[int]:
    """How many objects of this label each member has."""
    return [len(member.find({ck.CKA_LABEL: label})) for member in it.members]


def gone(app: Application, label: bytes) -> None:
    for handle in app.find({ck.CKA_LABEL: label}):
        app.destroy(handle)


@pytest.mark.parametrize(
    ("maker", "index", "action", "first"),
    [
        ("aes", 0, "lose-login", 0),
        ("pair", 0, "lose-sessions", 1),
        ("pair", 1, "lose-login", 2),
        ("imported", 0, "lose-login", 1),
        ("repeated", 1, "lose-sessions", 0),
    ],
)
def test_an_object_is_made_once_on_every_member(
    group: Group, tmp_path: Path, maker: str, index: int, action: str, first: int
) -> None:
    made = group(members=2, label="heals")
    plan = behind_chaos(made, tmp_path)[index]
    with scene(made) as it:
        count = 2 if maker == "pair" else 1
        records = [0, 0] if maker == "repeated" else [1, 1]
        for number in at_each_call(plan, action, first):
            MAKERS[maker](it.app)
            assert labelled(it, b"made") == [count, count], number
            assert it.records() == records, number
            assert len(it.app.find({ck.CKA_LABEL: b"made"})) == count, number
            gone(it.app, b"made")
            assert labelled(it, b"made") == [0, 0], number
            assert it.records() == [0, 0], number
    assert made.logged() == "", "no member was lost, and nothing refused"


@pytest.mark.parametrize(
    ("index", "action", "first"), [(0, "lose-login", 0), (0, "lose-sessions", 1), (1, "lose-login", 2)]
)
def test_an_object_is_changed_and_deleted_on_every_member(
    group: Group, tmp_path: Path, index: int, action: str, first: int
) -> None:
    made = group(members=2, label="heals")
    plan = behind_chaos(made, tmp_path)[index]
    with scene(made) as it:
        for number in at_each_call(plan, action, first):
            key = aes(it.app, b"before")
            it.app.set(key, {ck.CKA_LABEL: b"after"})
            assert labelled(it, b"after") == [1, 1], number
            assert labelled(it, b"before") == [0, 0], number
            assert it.records() == [1, 1], number
            it.app.destroy(key)
            assert labelled(it, b"after") == [0, 0], number
            assert it.records() == [0, 0], number
    assert made.logged() == ""


def test_a_member_that_forgets_at_every_call_is_not_asked_for_ever(group: Group, tmp_path: Path) -> None:
    made = group(members=2, label="heals")
    plan = behind_chaos(made, tmp_path)[0]
    with scene(made) as it:
        plan.set("C_WrapKey -> lose-login")
        with pytest.raises(Exception, match="CKR_DEVICE_ERROR"):
            pair(it.app)
        plan.set()
        assert labelled(it, b"made") == [0, 0]
        assert it.records() == [0, 0]
        pair(it.app)
        assert labelled(it, b"made") == [2, 2]
