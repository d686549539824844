"""What a resync reads of its members for each of its plans."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from pyha.ha.identity import identity_of
from pyha.ha.inventory import HeldTombstone, Inventory
from pyha.ha.steps import Delete, Plan
from pyha.ha.tombstones import Tombstone
from pyha.runtime import inventory, resync
from pyha.runtime.inventory import Memory, Shown

TOMBSTONE = Tombstone(bytes(16), identity_of({}), None, (), frozenset({"away"}), 1)


def work(
    monkeypatch: pytest.MonkeyPatch, tombstones: list[int], turns: Callable[[], int] = lambda: 0
) -> tuple[Any, list[bool]]:
    """A resync of one member, and of each of its readings whether what was read before was believed. `tombstones`: the
    handles of those that are there, one more each time."""
    believed: list[bool] = []

    def read(group: Any, connection: Any, memory: Memory, reads: Any) -> tuple[Inventory, frozenset[int]]:
        believed.append(bool(memory.shown))
        memory.shown[1] = Shown({})
        for real in tombstones[: len(believed)]:
            memory.shown[real] = Shown({}, record=HeldTombstone(real, TOMBSTONE))
        return Inventory(), frozenset()

    monkeypatch.setattr(resync, "read_inventory", read)
    settings = SimpleNamespace(members=[SimpleNamespace(recorded_as="here")])
    group: Any = SimpleNamespace(
        clock=lambda: 0.0,
        name=lambda index: "here",
        settings=settings,
        value=SimpleNamespace(members=()),
        strategies=(),
    )
    connection: Any = None
    members = ((0, connection),)
    beside = resync.Beside()
    monkeypatch.setattr(beside, "taken", turns)
    made = resync._Work(group, members, None, beside, lambda *told: None, lambda count: None)
    return made, believed


def test_a_second_plan_reads_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    made, believed = work(monkeypatch, [])
    made.plan()
    made.plan()
    assert believed == [False, True]


def test_a_new_tombstone_makes_it_read_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote it changed objects for a member that is absent to him: any may have been changed."""
    made, believed = work(monkeypatch, [2, 3])
    made.plan()
    made.plan()
    assert believed == [False, True, False]


def test_what_is_still_to_do_is_told_by_what_is_read_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another host has changed on every member since would be taken back on one of them."""
    made, believed = work(monkeypatch, [])
    monkeypatch.setattr(resync, "plan", lambda *told: Plan((Delete(0, 1, identity_of({}), True),)))
    assert made.plan()
    assert believed == [False]
    assert made.plan()
    assert believed == [False, True, False]


def test_what_the_resync_made_itself_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its handle was another object's before."""
    made, believed = work(monkeypatch, [])
    made.plan()
    made._lookouts[0].made(1)
    made.plan()
    assert believed == [False, False]


def test_whoever_was_let_in_meanwhile_makes_it_read_all_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process of this host changes on every member has no tombstone, and would be taken back on one of them."""
    turns = [0]
    made, believed = work(monkeypatch, [], lambda: turns[0])
    made.plan()
    made.plan()
    turns[0] = 1
    made.plan()
    made.plan()
    assert believed == [False, True, False, True]


def test_what_appears_is_looked_for_at_first_and_then_for_a_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps there are, and whatever they are about: a search takes longer the more a member holds."""
    now, searches = 0.0, 0

    def searched(*asked: Any) -> list[int]:
        nonlocal now, searches
        now, searches = now + 1.0, searches + 1
        return [1, 2]

    monkeypatch.setattr(inventory, "housekeeping", lambda *asked: nullcontext(0))
    monkeypatch.setattr(inventory, "search", searched)
    monkeypatch.setattr(inventory, "identity_at", lambda *asked: TOMBSTONE.was)
    group: Any = SimpleNamespace(clock=lambda: now, deadline=lambda: now)
    nobody: Any = None
    lookout = inventory.Lookout(group, nobody, frozenset({1}), now)
    lookout.look()
    assert (searches, lookout.appeared) == (1, [TOMBSTONE.was])
    for _ in range(100):
        now += 0.2
        lookout.look()
    assert 1 < searches < 4
