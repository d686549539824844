"""Tombstones: what is written is what is read, and which ones a new one replaces."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.domain import could_match_record, impersonates, record_search
from pyha.ha.identity import Identity, identity_of, ulong
from pyha.ha.recording import RecordDamaged
from pyha.ha.records import record_label
from pyha.ha.replication import value_of
from pyha.ha.tombstones import (
    Tombstone,
    behind,
    believable,
    decode,
    encode,
    is_tombstone_label,
    laid_upon,
    recordable,
    tombstone_label,
    tombstone_template,
)


def _key(label: bytes, private: bool = True, check_value: bytes = b"abc") -> Identity:
    return identity_of(
        {
            ck.CKA_CLASS: ulong(ck.CKO_SECRET_KEY),
            ck.CKA_KEY_TYPE: ulong(ck.CKK_AES),
            ck.CKA_PRIVATE: b"\1" if private else b"\0",
            ck.CKA_LABEL: label,
            ck.CKA_CHECK_VALUE: check_value,
        }
    )


A, B, C = _key(b"a"), _key(b"b"), _key(b"c")
SET = Attribute(ck.CKA_DERIVE, b"\1")


def _tombstone(
    was: Identity, now: Identity | None, *pending: str, made: int = 1, changes: Template = (SET,), count: int = 1
) -> Tombstone:
    return Tombstone(bytes(16), was, now, changes if now is not None else (), frozenset(pending), made, count)


DELETED = _tombstone(A, None, "s3", "s2")
CERTIFICATE = identity_of(
    {ck.CKA_CLASS: ulong(ck.CKO_CERTIFICATE), ck.CKA_ID: b"", ck.CKA_SUBJECT: b"0\xff"}, b"hash", None
)


@pytest.mark.parametrize(
    "tombstone",
    [
        DELETED,
        _tombstone(A, B, "s1", changes=(Attribute(ck.CKA_LABEL, b"b"), Attribute(ck.CKA_WRAP_TEMPLATE, (SET,)))),
        _tombstone(CERTIFICATE, replace(CERTIFICATE, twin=b"point", value_hash=b""), count=3),
    ],
)
def test_there_and_back(tombstone: Tombstone) -> None:
    assert decode(encode(tombstone)) == tombstone


@pytest.mark.parametrize("at", [0, 63, 64, -1])
def test_a_changed_byte_is_noticed(at: int) -> None:
    data = bytearray(encode(DELETED))
    data[at] ^= 1
    with pytest.raises(RecordDamaged):
        decode(bytes(data))


@pytest.mark.parametrize(
    "change",
    [
        {"pyha": 2},
        {"group": 1},
        {"was": None},
        {"was": {"attributes": [[1]], "value": None, "twin": None}},
        {"was": {"attributes": [["1", "00"]], "value": None, "twin": None}},
        {"was": {"attributes": [], "value": 1, "twin": None}},
        {"now": []},
        {"now": "x"},
        {"changes": None},
        {"pending": "s1"},
        {"pending": [1]},
        {"made": "1"},
        {"count": -1},
    ],
)
def test_a_forged_field_is_damage_and_no_fault(change: dict[str, object]) -> None:
    body = json.dumps({**json.loads(encode(DELETED)[64:]), **change}).encode()
    with pytest.raises(RecordDamaged):
        decode(sha256(body).hexdigest().encode() + body)


def test_an_application_can_neither_make_nor_see_one() -> None:
    template = tombstone_template(DELETED)
    assert impersonates(template)
    assert could_match_record((template[0],))
    for attribute in record_search():
        assert value_of(template, attribute.type) == attribute.value


def test_it_is_no_escrow_record_by_its_label() -> None:
    assert is_tombstone_label(tombstone_label(A))
    assert not is_tombstone_label(record_label(A))


@pytest.mark.parametrize("private", [True, False])
def test_it_is_as_private_as_what_it_speaks_of(private: bool) -> None:
    tombstone = _tombstone(_key(b"a", private=private), None, "s1")
    assert value_of(tombstone_template(tombstone), ck.CKA_PRIVATE) == (b"\1" if private else b"\0")
    assert believable(tombstone, private=private)


def test_a_public_one_about_a_private_object_is_not_believed() -> None:
    assert not believable(DELETED, private=False)
    assert believable(_tombstone(_key(b"a", private=False), None, "s1"), private=True)


def test_it_is_filed_under_what_the_object_was_called_last() -> None:
    assert value_of(tombstone_template(_tombstone(A, B, "s1")), ck.CKA_LABEL) == tombstone_label(B)
    assert value_of(tombstone_template(_tombstone(A, None, "s1")), ck.CKA_LABEL) == tombstone_label(A)
    assert tombstone_label(A) != tombstone_label(B)
    assert tombstone_label(A) == tombstone_label(_key(b"a", check_value=b""))


def test_nothing_secret_is_written_down() -> None:
    changes = (
        Attribute(ck.CKA_VALUE, b"secret"),
        Attribute(ck.CKA_PRIME_1, b"secret"),
        Attribute(0x80000001, b"a vendor's"),
        Attribute(ck.CKA_LABEL, memoryview(b"label")),
    )
    for object_class in (ck.CKO_SECRET_KEY, ck.CKO_DATA, ck.CKO_CERTIFICATE, None):
        assert recordable(changes, object_class) == (Attribute(ck.CKA_LABEL, b"label"),)


def test_what_an_object_is_after_a_change() -> None:
    data = identity_of({ck.CKA_CLASS: ulong(ck.CKO_DATA), ck.CKA_LABEL: b"a"}, b"hash")
    changes = (Attribute(ck.CKA_LABEL, b"b"), Attribute(ck.CKA_VALUE, b"new"), Attribute(ck.CKA_DERIVE, b"\1"))
    named = {ck.CKA_CLASS: ulong(ck.CKO_DATA), ck.CKA_LABEL: b"b"}
    assert data.after(changes) == identity_of(named, sha256(b"new").digest())
    assert data.after((Attribute(ck.CKA_VALUE, b""),)).value_hash is None
    assert A.after((Attribute(ck.CKA_VALUE, b"no value of a secret key is looked at"),)) == A
    assert A.after(()) is A


# -- following upon one another -----------------------------------------------------------------------------------


def test_the_first_is_written_as_it_is() -> None:
    assert laid_upon(DELETED, ()) == (DELETED, ())
    others = (_tombstone(B, None, "s3", made=9), replace(DELETED, group_id=b"other", made=9))
    assert laid_upon(DELETED, others) == (DELETED, ())


def test_what_follows_is_later_whatever_the_clock_says() -> None:
    renamed = _tombstone(A, B, "s3", made=100)
    written, _ = laid_upon(_tombstone(B, None, "s3", made=90), (renamed,))
    assert written.made == 101


def test_a_deletion_replaces_a_change_that_renames_nothing() -> None:
    changed = _tombstone(A, A, "s3")
    written, gone = laid_upon(_tombstone(A, None, "s3", "s2", made=2), (changed,))
    assert gone == (changed,)
    assert written == _tombstone(A, None, "s3", "s2", made=2)


def test_a_deletion_keeps_what_says_where_its_object_came_from() -> None:
    """The pending member holds A, and would not know that B is meant."""
    renamed = _tombstone(A, B, "s3")
    written, gone = laid_upon(_tombstone(B, None, "s3", made=2), (renamed,))
    assert (written.was, gone) == (B, ())


def test_a_deletion_keeps_what_another_member_waits_for() -> None:
    changed = _tombstone(A, A, "s3", "s4")
    assert laid_upon(_tombstone(A, None, "s3", made=2), (changed,))[1] == ()


def test_an_object_made_and_deleted_again_counts_twice() -> None:
    """The pending member may hold both: another process may still have reached it."""
    first = _tombstone(A, None, "s3")
    written, gone = laid_upon(_tombstone(A, None, "s3", made=2), (first,))
    assert (written.count, gone) == (2, (first,))


def test_changes_for_the_same_members_become_one() -> None:
    first = _tombstone(A, B, "s3", changes=(Attribute(ck.CKA_LABEL, b"b"), Attribute(ck.CKA_DERIVE, b"\0")))
    written, gone = laid_upon(_tombstone(B, B, "s3", made=2), (first,))
    assert gone == (first,)
    assert (written.was, written.now, written.made) == (A, B, 2)
    assert written.changes == (Attribute(ck.CKA_LABEL, b"b"), SET)


def test_two_renamings_stay_two() -> None:
    """A member that has made the first of them alone holds B, which one from A to C would not name."""
    assert laid_upon(_tombstone(B, C, "s3", made=2), (_tombstone(A, B, "s3"),))[1] == ()


@pytest.mark.parametrize("pending", [("s3", "s4"), ("s4",), ()])
def test_changes_for_other_members_stay_apart(pending: tuple[str, ...]) -> None:
    assert laid_upon(_tombstone(A, A, "s3", made=2), (_tombstone(A, A, *pending),))[1] == ()


def test_a_change_is_never_laid_into_a_deletion() -> None:
    """The object was made again in between: the pending member holds the one that was deleted."""
    deleted = _tombstone(A, None, "s3", made=5)
    written, gone = laid_upon(_tombstone(A, A, "s3", made=2), (_tombstone(A, A, "s3"), deleted))
    assert (written.made, gone) == (6, ())


def test_copies_on_two_members_are_one_whoever_is_pending() -> None:
    assert DELETED.is_copy_of(DELETED.applied_by("s3"))
    assert DELETED.applied_by("s3", "s9").pending == {"s2"}
    assert not DELETED.is_copy_of(replace(DELETED, made=2))


def test_who_is_behind() -> None:
    one, two = _tombstone(A, None, "x", "y"), _tombstone(B, None, "x")
    assert behind({}) == behind({"x": [], "y": []}) == frozenset()
    assert behind({"x": [], "z": [one, two]}) == {"x", "y"}
    assert behind({"z": [one], "w": [one.applied_by("x")]}) == {"y"}, "applied where one copy says so"
    assert behind({"x": [two], "z": []}) == frozenset(), "what nobody else holds was missed by nobody here"
    assert behind({"x": [two], "z": [two]}) == {"x"}
    assert behind({"x": [_tombstone(A, None, "y")], "y": [_tombstone(B, None, "x")]}) == {"x", "y"}
