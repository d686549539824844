"""What members miss is written down on the others before it happens there (SEMANTICS.md section 5)."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from pyha.ha.replication import value_of
from pyha.ha.tombstones import Tombstone, decode, is_tombstone_label
from pyha.runtime import config
from tests.application import Answered, Application
from tests.chaos import Plan, behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, P256, STAYS, Scene, scene

Group = Callable[..., TestGroup]
LABEL = f"missed-{os.getpid()}"
CERTIFICATE: dict[int, Any] = {
    ck.CKA_CLASS: ck.CKO_CERTIFICATE,
    ck.CKA_CERTIFICATE_TYPE: 0,
    ck.CKA_TOKEN: True,
    ck.CKA_PRIVATE: False,
    ck.CKA_SUBJECT: b"\x30\0",
    ck.CKA_VALUE: b"\x30\1\0",
    ck.CKA_LABEL: b"it",
}


def tombstones(member: Application) -> list[Tombstone]:
    """Those on one member, in the order of making."""
    held = []
    for real in member.find({ck.CKA_APPLICATION: b"pyha"}):
        told = member.read(real, ck.CKA_LABEL, ck.CKA_PRIVATE, ck.CKA_VALUE)
        if is_tombstone_label(told[ck.CKA_LABEL] or b""):
            held.append(decode(told[ck.CKA_VALUE] or b""))
            assert told[ck.CKA_PRIVATE] == (b"\1" if held[-1].was.private else b"\0")
    return sorted(held, key=lambda each: each.made)


def alike(it: Scene, *members: int) -> list[Tombstone]:
    """The tombstones of these members, which all have the same ones."""
    first, *rest = [tombstones(it.members[index]) for index in members]
    assert all(each == first for each in rest)
    return first


def serial(group: TestGroup, index: int) -> str:
    """A member's serial as the configuration says it."""
    return config.load(str(group.conf)).groups[0].members[index].uri.serial or ""


def aes(app: Application) -> int:
    """A key that must not leave."""
    return app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: b"it", ck.CKA_VALUE_LEN: 32})


def found(app: Application, label: bytes = b"it") -> int:
    """The one object of this label."""
    (handle,) = app.find({ck.CKA_LABEL: label})
    return handle


def without(made: TestGroup, *indices: int) -> TestGroup:
    """The same group with these members disabled."""
    made.only(*(index for index in range(len(made.tokens)) if index not in indices))
    return made


@pytest.fixture(scope="module")
def module_scene(group_of_module: Group) -> Iterator[Scene]:
    with scene(without(group_of_module(label=LABEL), 2)) as it:
        yield it


@pytest.fixture
def it(module_scene: Scene) -> Iterator[Scene]:
    """A scene without its last member, and without tombstones."""
    yield module_scene
    for handle in module_scene.app.find({}):
        module_scene.app.destroy(handle)
    for member in module_scene.members:
        for real in member.find({ck.CKA_APPLICATION: b"pyha"}):
            member.destroy(real)


def test_nothing_is_written_while_every_member_is_in(group: Group) -> None:
    with scene(group(label=LABEL)) as it:
        before = it.inventory()
        key = aes(it.app)
        it.app.set(key, {ck.CKA_LABEL: b"other", ck.CKA_DERIVE: True})
        it.app.destroy(key)
        assert it.inventory() == before


def test_a_deletion_that_a_member_misses(it: Scene) -> None:
    aes(it.app)
    it.app.destroy(found(it.app))
    (only,) = alike(it, 0, 1)
    assert only.now is None
    assert only.pending == {serial(it.group, 2)}
    assert only.was.get(ck.CKA_LABEL) == b"it"
    assert it.records() == [1, 1, 0]  # the escrow record is gone
    # Who uses the group sees nothing of it.
    assert it.app.find({}) == it.app.find({ck.CKA_CLASS: ck.CKO_DATA}) == []


def test_it_names_everybody_who_is_not_in_standby_members_too(group: Group) -> None:
    with scene(without(group(members=2, standby=1, label=LABEL), 0, 2)) as it:
        it.app.destroy(aes(it.app))
        (only,) = alike(it, 1)
        assert only.pending == {serial(it.group, 0), serial(it.group, 2)}


def test_a_change_that_a_member_misses(it: Scene) -> None:
    key = aes(it.app)
    it.app.set(key, {ck.CKA_DERIVE: True})
    (first,) = alike(it, 0, 1)
    assert first.was == first.now
    it.app.set(key, {ck.CKA_LABEL: b"new"})
    (second,) = alike(it, 0, 1)
    assert second.made > first.made
    assert second.now is not None
    assert (second.was.get(ck.CKA_LABEL), second.now.get(ck.CKA_LABEL)) == (b"it", b"new")
    assert value_of(second.changes, ck.CKA_DERIVE) == b"\1"
    # A second name: who has applied the first change alone has to be able to follow.
    it.app.set(key, {ck.CKA_LABEL: b"newest"})
    it.app.destroy(key)
    names = [(each.was.get(ck.CKA_LABEL), each.now and each.now.get(ck.CKA_LABEL)) for each in alike(it, 0, 1)]
    assert names == [(b"it", b"new"), (b"new", b"newest"), (b"newest", None)]


def test_a_deletion_takes_the_place_of_a_change(it: Scene) -> None:
    key = aes(it.app)
    it.app.set(key, {ck.CKA_DERIVE: True})
    it.app.destroy(key)
    (only,) = alike(it, 0, 1)
    assert only.now is None


def test_made_and_deleted_again(it: Scene) -> None:
    it.app.create(CERTIFICATE)
    for _ in range(2):
        it.app.destroy(found(it.app))
        it.app.create(CERTIFICATE)
    deletion, making = alike(it, 0, 1)
    assert (deletion.now, deletion.count, making.of_making) == (None, 2, True)
    # The one that was made again is where it belongs.
    assert [len(member.find({ck.CKA_LABEL: b"it"})) for member in it.members] == [1, 1, 0]


def test_what_another_process_has_renamed_is_called_as_it_is_now(it: Scene) -> None:
    key = aes(it.app)
    with it.group.application() as other:
        other.set(found(other), {ck.CKA_LABEL: b"new"})
    it.app.destroy(key)
    assert [each.was.get(ck.CKA_LABEL) for each in alike(it, 0, 1)] == [b"it", b"new"]
    it.everywhere(b"new", 0)


def test_session_objects_have_none(it: Scene) -> None:
    before = it.inventory()
    key = it.app.generate(ck.CKM_AES_KEY_GEN, {**LEAVES, ck.CKA_TOKEN: False, ck.CKA_VALUE_LEN: 32})
    it.app.set(key, {ck.CKA_LABEL: b"x"})
    it.app.destroy(key)
    assert it.inventory() == before


def test_a_public_object_is_deleted_without_login(it: Scene) -> None:
    it.app.create(CERTIFICATE)
    with it.group.application(pin=None) as public:
        public.set(found(public), {ck.CKA_ID: b"\7"})
        public.destroy(found(public))
        assert [each.now is None for each in alike(it, 0, 1)] == [False, True]
        assert public.find({}) == []


@contextmanager
def planned(made: TestGroup, directory: Path) -> Iterator[tuple[Scene, list[Plan]]]:
    """The scene with every member behind a plan."""
    plans = behind_chaos(made, directory)
    with scene(made) as it:
        yield it, plans


def test_a_tombstone_that_is_refused_leaves_all_as_it_was(group: Group, tmp_path: Path) -> None:
    with planned(without(group(label=LABEL), 2), tmp_path) as (it, plans):
        key = aes(it.app)
        before = it.inventory()
        plans[1].set("C_CreateObject once -> answer CKR_DEVICE_MEMORY")
        with pytest.raises(Answered, match="CKR_DEVICE_MEMORY"):
            it.app.destroy(key)
        assert it.inventory() == before
        it.app.destroy(key)
        assert len(alike(it, 0, 1)) == 1


@pytest.mark.parametrize("function", ["C_DestroyObject", "C_SetAttributeValue"])
def test_a_change_that_is_refused_leaves_none(group: Group, tmp_path: Path, function: str) -> None:
    with planned(without(group(label=LABEL), 2), tmp_path) as (it, plans):
        key = aes(it.app)
        before = it.inventory()
        plans[0].set(f"{function} nth=1 -> answer CKR_ACTION_PROHIBITED")
        refused: Any = (it.app.destroy, key) if function == "C_DestroyObject" else (it.app.set, key, {ck.CKA_ID: b"x"})
        with pytest.raises(Answered, match="CKR_ACTION_PROHIBITED"):
            refused[0](*refused[1:])
        assert it.inventory() == before


def test_it_is_there_before_anything_is_deleted(group: Group, tmp_path: Path) -> None:
    """What a crash leaves: a tombstone without its deletion, never the other way round."""
    with planned(without(group(label=LABEL), 2), tmp_path) as (it, plans):
        key = aes(it.app)
        plans[0].set("C_DestroyObject nth=1 -> hang")
        deleting = threading.Thread(target=it.app.destroy, args=(key,))
        deleting.start()
        try:
            plans[0].wait_for("C_DestroyObject")
            making, deletion = alike(it, 0, 1)
            assert (making.of_making, deletion.now) == (True, None)
            assert [len(member.find({ck.CKA_LABEL: b"it"})) for member in it.members[:2]] == [1, 1]
        finally:
            plans[0].release()
            deleting.join()
        assert len(alike(it, 0, 1)) == 1
        assert it.app.find({}) == []


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_member_that_is_lost_in_the_middle_is_named(group: Group, tmp_path: Path, victim: int) -> None:
    made = group(label=LABEL)
    with planned(made, tmp_path) as (it, plans):
        aes(it.app)
        others = [index for index in range(3) if index != victim]
        plans[victim].set("C_DestroyObject nth=1 -> crash")
        it.app.destroy(found(it.app))
        (only,) = alike(it, *others)
        assert only.pending == {serial(made, victim)}
        assert [len(it.members[index].find({ck.CKA_LABEL: b"it"})) for index in others] == [0, 0]


def test_who_is_lost_besides_is_added(group: Group, tmp_path: Path) -> None:
    with planned(without(group(label=LABEL), 2), tmp_path) as (it, plans):
        key = aes(it.app)
        plans[1].set("C_SetAttributeValue nth=1 -> crash")
        it.app.set(key, {ck.CKA_DERIVE: True})
        making, change = alike(it, 0)
        assert (making.of_making, making.pending) == (True, frozenset({serial(it.group, 2)}))
        assert change.pending == {serial(it.group, 1), serial(it.group, 2)}


def test_a_call_that_ends_helpers_is_not_given_to_more_than_two(group: Group, tmp_path: Path) -> None:
    made = group(members=4, label=LABEL)
    with planned(made, tmp_path) as (it, plans):
        key = aes(it.app)
        for plan in plans[1:]:
            plan.set("C_SetAttributeValue nth=1 -> crash")
        with pytest.raises(Answered, match="CKR_DEVICE_ERROR"):
            it.app.set(key, {ck.CKA_DERIVE: True})
        assert [f"member {made.tokens[index].label} lost" in made.logged() for index in range(4)] == [0, 1, 1, 0]
        # The last one serves and lacks the change: that is written down too.
        (only,) = alike(it, 0, 3)
        assert only.pending == {serial(made, index) for index in (1, 2, 3)}
        assert "needs a resync: C_SetAttributeValue was not given to it" in made.logged()


def test_what_a_lost_member_may_have_made_is_named_for_clearing(group: Group, tmp_path: Path) -> None:
    made = group(label=LABEL)
    with planned(made, tmp_path) as (it, plans):
        before = it.inventory()
        # The first makes it and is lost before it answers; the last refuses it.
        plans[0].set("C_UnwrapKey nth=1 -> crash")
        plans[2].set("C_UnwrapKey nth=1 -> answer CKR_DEVICE_MEMORY")
        with pytest.raises(Answered, match="CKR_DEVICE_MEMORY"):
            aes(it.app)
        (only,) = alike(it, 1, 2)
        assert only.now is None
        assert only.pending == {serial(made, 0)}
        assert only.was.get(ck.CKA_LABEL) == b"it"
        assert [len(each) for each in it.inventory()[1:]] == [len(each) + 1 for each in before[1:]]


def test_a_pair_and_a_repeated_creation_are_cleared_likewise(group: Group, tmp_path: Path) -> None:
    made = group(label=LABEL)
    with planned(made, tmp_path) as (it, plans):
        plans[0].set("C_CreateObject nth=1 -> crash")
        plans[2].set("C_CreateObject nth=1 -> answer CKR_DEVICE_MEMORY")
        with pytest.raises(Answered, match="CKR_DEVICE_MEMORY"):
            it.app.create(CERTIFICATE)
        (only,) = alike(it, 1, 2)
        assert only.was.object_class == ck.CKO_CERTIFICATE
        # Nobody is lost any more: nothing is to be cleared.
        plans[2].set("C_UnwrapKey nth=1 -> answer CKR_DEVICE_MEMORY")
        public = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_LABEL: b"it"}
        with pytest.raises(Answered, match="CKR_DEVICE_MEMORY"):
            it.app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**STAYS, ck.CKA_SIGN: True, ck.CKA_LABEL: b"it"})
        assert alike(it, 1, 2) == [only]


def test_what_nobody_can_tell_is_said(group: Group, tmp_path: Path) -> None:
    made = group(label=LABEL)
    with planned(made, tmp_path) as (it, plans):
        plans[0].set("C_CreateObject nth=1 -> crash")
        plans[1].set("C_CreateObject nth=1 -> answer CKR_DEVICE_MEMORY")
        with pytest.raises(Answered, match="CKR_DEVICE_MEMORY"):
            it.app.create(CERTIFICATE)
        assert alike(it, 1, 2) == []
        assert f"C_CreateObject: the token {serial(made, 0)} may hold what it was making" in made.logged()
