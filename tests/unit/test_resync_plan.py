"""The plan of a resync: what it decides, case by case (SEMANTICS.md section 5, docs/resync.md)."""

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute
from pyha.ha.identity import Identity
from pyha.ha.inventory import Held, Inventory, Settings, Side
from pyha.ha.records import record_label
from pyha.ha.resync import plan
from pyha.ha.steps import Change, Clear, Conflict, Copy, Delete, Plan, Write
from pyha.ha.telling import action, conflict_line, conflicts_for_log, line
from pyha.ha.tombstones import Tombstone
from tests.unit.model_tokens import (
    GROUP,
    LEAVES,
    NAMES,
    STAYS,
    Token,
    data,
    planned,
    record_of,
    resync,
    rsa,
    secret,
)


def tombstone(
    was: Identity, now: Identity | None = None, pending: str = "b", made: int = 1, count: int = 1, **changes: bytes
) -> Tombstone:
    template = tuple(Attribute(getattr(ck, f"CKA_{name}"), value) for name, value in changes.items())
    return Tombstone(GROUP, was, now, template, frozenset(pending), made, count)


def settled(tokens: list[Token], whole: bool = True) -> Plan:
    """Carry it out, and see that nothing is left to do."""
    made = resync(tokens, whole)
    assert planned(tokens, whole).steps == ()
    return made


def kinds(made: Plan) -> list[str]:
    return [action(step) for step in made.steps]


def with_sign(settings: Settings, value: bytes) -> Settings:
    return tuple((kind, value if kind == ck.CKA_SIGN else each) for kind, each in settings)


# -- what is missing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [data(b"d"), data(b""), secret(b"k", b"123"), secret(b"k"), rsa(b"r")])
@pytest.mark.parametrize("lacking", [0, 1])
def test_what_one_has_the_other_gets(identity: Identity, lacking: int) -> None:
    tokens = [Token(), Token()]
    tokens[1 - lacking].add(identity)
    (step,) = settled(tokens).steps
    assert isinstance(step, Copy)
    assert (step.member, step.source, step.record) == (lacking, 1 - lacking, None)
    assert tokens[0].content() == tokens[1].content()


def test_a_key_that_must_not_leave_comes_from_its_record_which_is_written_first() -> None:
    tokens = [Token(), Token()]
    key = secret(b"k", b"123")
    tokens[0].add(key, STAYS, record_of(key))
    made = settled(tokens)
    assert kinds(made) == ["write", "copy"]
    copy = made.steps[1]
    assert isinstance(copy, Copy)
    assert copy.record == record_of(key)


@pytest.mark.parametrize(
    ("identity", "settings", "reason"),
    [
        (secret(b"k", b"123"), STAYS, "no escrow record"),
        (rsa(b"k"), STAYS, "no escrow record"),
        (secret(b"k", b"123"), (*LEAVES, (ck.CKA_WRAP_WITH_TRUSTED, b"\1")), "trusted keys only"),
        (Identity(tuple((kind, ck.CKK_EC_EDWARDS.to_bytes(8, "little") if kind == ck.CKA_KEY_TYPE else value)
                        for kind, value in rsa(b"k").attributes)), LEAVES, "no wrapping"),
        (Identity(((ck.CKA_CLASS, (0x8123).to_bytes(8, "little")),)), (), "its class"),
    ],
)  # fmt: skip
def test_what_cannot_be_copied_is_named_and_bars(identity: Identity, settings: Settings, reason: str) -> None:
    tokens = [Token(), Token()]
    tokens[0].add(identity, settings)
    made = planned(tokens)
    assert made.steps == ()
    (conflict,) = made.conflicts
    assert reason in conflict.reason
    assert (conflict.member, conflict.bars) == (1, True)
    assert conflict.pinnable == (identity.object_class in (ck.CKO_SECRET_KEY, ck.CKO_PRIVATE_KEY))


def test_nobody_is_kept_out_for_a_key_that_another_serving_member_lacks_too() -> None:
    tokens = [Token(), Token(), Token()]
    tokens[0].add(rsa(b"k"), STAYS)
    made = planned(tokens)
    assert [(conflict.member, conflict.bars) for conflict in made.conflicts] == [(1, False), (2, False)]


def test_what_all_have_needs_nothing() -> None:
    tokens = [Token(), Token(), Token()]
    for token in tokens:
        token.add(data(b"d"))
        token.add(secret(b"k", b"123"), STAYS, record_of(secret(b"k", b"123")))
    assert not planned(tokens)


def test_a_copy_that_does_not_tell_its_check_value_is_the_same_key() -> None:
    tokens = [Token(), Token()]
    tokens[0].add(secret(b"k", b"123"))
    tokens[1].add(secret(b"k"))
    assert not planned(tokens)


# -- deleted while it was away ------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [data(b"d"), secret(b"k", b"123"), secret(b"k"), rsa(b"r")])
def test_what_a_tombstone_names_is_deleted_and_the_tombstone_goes(identity: Identity) -> None:
    tokens = [Token(), Token()]
    tokens[1].add(identity, STAYS, record_of(identity))
    tokens[0].bury(tombstone(identity))
    made = settled(tokens)
    assert kinds(made) == ["delete", "clear", "clear"]
    assert tokens[0].content() == tokens[1].content() == Token().content()


def test_nobody_else_deletes() -> None:
    """C is not named: it has been through the deletion, and what it has now was made since."""
    tokens = [Token(), Token(), Token()]
    tokens[0].bury(tombstone(data(b"d")))
    tokens[2].add(data(b"d"))
    made = settled(tokens)
    assert kinds(made) == ["clear", "copy", "copy"]


def test_one_that_is_still_away_keeps_the_tombstone_waiting_on_all() -> None:
    tokens = [Token(), Token()]
    tokens[1].add(data(b"d"))
    tokens[0].bury(tombstone(data(b"d"), pending="bc"))
    settled(tokens, whole=False)
    assert [list(token.tombstones.values()) for token in tokens] == [[tombstone(data(b"d"), pending="c")]] * 2
    assert not tokens[1].objects


def test_of_one_who_is_not_configured_any_more_nothing_is_waited_for() -> None:
    tokens = [Token(), Token()]
    tokens[0].bury(tombstone(data(b"d"), pending="bc"))
    assert kinds(settled(tokens)) == ["clear"]


def test_a_tombstone_marked_on_one_member_is_applied_for_all() -> None:
    tokens = [Token(), Token(), Token()]
    tokens[0].bury(tombstone(data(b"d"), pending="b"))
    tokens[2].bury(tombstone(data(b"d"), pending="bc"))
    tokens[1].add(data(b"d"))
    made = settled(tokens)
    assert "delete" in kinds(made)
    tokens = [Token(), Token(), Token()]
    tokens[0].bury(tombstone(data(b"d"), pending="c"))
    tokens[2].bury(tombstone(data(b"d"), pending="bc"))
    tokens[1].add(data(b"d"))
    made = settled(tokens)
    assert "delete" not in kinds(made), "b has applied it, so this one was made since"


def test_made_again_with_other_attributes_it_comes_from_the_others() -> None:
    tokens = [Token(), Token()]
    tokens[0].add(rsa(b"r"), with_sign(LEAVES, b"\1"))
    tokens[0].bury(tombstone(rsa(b"r")))
    tokens[1].add(rsa(b"r"), with_sign(LEAVES, b"\0"))
    made = settled(tokens)
    assert kinds(made) == ["delete", "clear", "copy"]
    assert [settings for _, settings in tokens[1].objects.values()] == [LEAVES]


def test_a_tombstone_without_its_deletion_does_no_harm() -> None:
    tokens = [Token(), Token()]
    for token in tokens:
        token.add(data(b"d"))
    tokens[0].bury(tombstone(data(b"d")))
    assert kinds(settled(tokens)) == ["clear"]


@pytest.mark.parametrize(("identity", "bars"), [(secret(b"k"), True), (secret(b"k", b"123"), True)])
def test_more_than_a_tombstone_speaks_of_is_not_touched(identity: Identity, bars: bool) -> None:
    tokens = [Token(), Token()]
    for _ in range(2):
        tokens[1].add(identity)
    tokens[0].bury(tombstone(identity))
    made = planned(tokens)
    assert not {"delete", "copy"} & set(kinds(made)), "neither here nor there"
    assert next(conflict.bars for conflict in made.conflicts if conflict.member == 1) is bars
    assert len(tokens[1].objects) == 2
    assert not [step for step in made.steps if isinstance(step, Clear)], "the tombstone stays"


def test_of_two_equal_ones_only_the_deleted_one_goes() -> None:
    tokens = [Token(), Token()]
    tokens[0].add(data(b"d"))
    for _ in range(2):
        tokens[1].add(data(b"d"))
    tokens[0].bury(tombstone(data(b"d")))
    assert kinds(settled(tokens)) == ["delete", "clear"]
    assert len(tokens[1].objects) == 1


# -- changed while it was away ------------------------------------------------------------------------------------


def test_a_new_name_and_flag_are_set() -> None:
    tokens = [Token(), Token()]
    was, now = secret(b"old", b"123"), secret(b"new", b"123")
    tokens[0].add(now, with_sign(LEAVES, b"\1"))
    tokens[0].bury(tombstone(was, now, LABEL=b"new", SIGN=b"\1"))
    tokens[1].add(was, with_sign(LEAVES, b"\0"))
    made = settled(tokens)
    assert kinds(made) == ["change", "clear"]
    assert tokens[0].content() == tokens[1].content()


def test_what_was_allowed_meanwhile_is_newer_than_the_stronger() -> None:
    tokens = [Token(), Token()]
    key = secret(b"k", b"123")
    tokens[0].add(key, with_sign(STAYS, b"\1"), record_of(key, with_sign(STAYS, b"\1")))
    tokens[1].add(key, with_sign(STAYS, b"\0"), record_of(key, with_sign(STAYS, b"\0")))
    tokens[0].bury(tombstone(key, key, SIGN=b"\1"))
    made = settled(tokens)
    assert kinds(made) == ["change", "clear", "write", "clear"]
    assert tokens[0].content() == tokens[1].content()
    assert [record for _, record in tokens[1].records.values()] == [record_of(key, with_sign(STAYS, b"\1"))]


def test_a_changed_value_is_fetched_from_who_has_it() -> None:
    tokens = [Token(), Token()]
    was, now = data(b"d", b"old"), data(b"d", b"new")
    tokens[0].add(now)
    tokens[1].add(was)
    tokens[0].bury(tombstone(was, now))
    made = settled(tokens)
    (change,) = [step for step in made.steps if isinstance(step, Change)]
    assert change.fetched == (ck.CKA_VALUE,)
    assert tokens[0].content() == tokens[1].content()


def test_renamed_twice_then_deleted() -> None:
    tokens = [Token(), Token()]
    first, second, third = (secret(label, b"123") for label in (b"1", b"2", b"3"))
    tokens[1].add(first)
    for made, (was, now) in enumerate([(first, second), (second, third), (third, None)]):
        tokens[0].bury(tombstone(was, now, made=made + 1))
    assert kinds(settled(tokens)) == ["delete", "clear", "clear", "clear"]


def test_a_later_tombstone_of_its_own_is_newer() -> None:
    """Both were alone for a while: what b itself changed afterwards is not undone on b."""
    tokens = [Token(), Token()]
    key = secret(b"k", b"123")
    tokens[0].add(key, with_sign(LEAVES, b"\0"))
    tokens[0].bury(tombstone(key, key, pending="b", made=1, SIGN=b"\0"))
    tokens[1].add(key, with_sign(LEAVES, b"\1"))
    tokens[1].bury(tombstone(key, key, pending="a", made=2, SIGN=b"\1"))
    settled(tokens)
    assert tokens[0].content() == tokens[1].content()
    assert [settings for _, settings in tokens[0].objects.values()] == [with_sign(LEAVES, b"\1")]


# -- drift --------------------------------------------------------------------------------------------------------

_WEAK_STRONG = [
    (ck.CKA_SENSITIVE, b"\0", b"\1"),
    (ck.CKA_SIGN, b"\1", b"\0"),
    (ck.CKA_DECRYPT, b"\1", b"\0"),
    (ck.CKA_WRAP_WITH_TRUSTED, b"\0", b"\1"),
    (ck.CKA_COPYABLE, b"\1", b"\0"),
]


@pytest.mark.parametrize(("attribute", "weak", "strong"), _WEAK_STRONG)
@pytest.mark.parametrize("stronger", [0, 1])
def test_the_stronger_protection_wins_whoever_has_it(attribute: int, weak: bytes, strong: bytes, stronger: int) -> None:
    tokens = [Token(), Token()]
    key = secret(b"k", b"123")
    base = tuple(each for each in LEAVES if each[0] != attribute)
    for member, token in enumerate(tokens):
        token.add(key, (*base, (attribute, strong if member == stronger else weak)))
    (step,) = settled(tokens).steps
    assert isinstance(step, Change)
    assert step.member == 1 - stronger
    assert step.changes == (Attribute(attribute, strong),)


@pytest.mark.parametrize("attribute", [ck.CKA_MODIFIABLE, ck.CKA_DESTROYABLE, ck.CKA_ALWAYS_AUTHENTICATE])
def test_what_cannot_be_set_is_a_conflict_and_bars_the_weaker(attribute: int) -> None:
    weak, strong = (b"\0", b"\1") if attribute == ck.CKA_ALWAYS_AUTHENTICATE else (b"\1", b"\0")
    tokens = [Token(), Token()]
    tokens[0].add(rsa(b"r"), (*LEAVES, (attribute, strong)))
    tokens[1].add(rsa(b"r"), (*LEAVES, (attribute, weak)))
    made = planned(tokens)
    assert made.steps == ()
    assert [(conflict.member, conflict.bars, conflict.pinnable) for conflict in made.conflicts] == [(1, True, False)]


def test_it_becomes_unextractable_only_where_it_has_a_record() -> None:
    key = secret(b"k", b"123")
    for record, expected in ((None, []), (record_of(key), ["change", "write"])):
        tokens = [Token(), Token()]
        tokens[0].add(key, LEAVES)
        tokens[1].add(key, STAYS, record)
        made = planned(tokens)
        assert kinds(made) == expected
        assert bool(made.conflicts) == (record is None)


def test_nothing_is_set_on_an_object_that_is_not_modifiable() -> None:
    tokens = [Token(), Token()]
    tokens[0].add(rsa(b"r"), (*with_sign(LEAVES, b"\0"), (ck.CKA_MODIFIABLE, b"\0")))
    tokens[1].add(rsa(b"r"), (*with_sign(LEAVES, b"\1"), (ck.CKA_MODIFIABLE, b"\0")))
    made = planned(tokens)
    assert (made.steps, len(made.conflicts)) == ((), 1)


# -- alike --------------------------------------------------------------------------------------------------------


def test_keys_that_cannot_be_told_apart_are_left_alone() -> None:
    tokens = [Token(), Token()]
    for _ in range(2):
        tokens[0].add(secret(b"k"))
    tokens[1].add(secret(b"k"))
    made = planned(tokens)
    assert made.steps == ()
    assert all(conflict.bars and conflict.pinnable for conflict in made.conflicts)


def test_as_many_of_them_are_the_same_ones() -> None:
    tokens = [Token(), Token()]
    for token in tokens:
        for _ in range(2):
            token.add(secret(b"k"))
    assert not planned(tokens)


def test_several_are_copied_each_to_who_has_none() -> None:
    tokens = [Token(), Token()]
    for blob in (b"one", b"two"):
        tokens[0].add(secret(b"k"), STAYS, record_of(secret(b"k"), blob=blob))
    made = settled(tokens)
    copies = [step for step in made.steps if isinstance(step, Copy)]
    assert {step.record.blob for step in copies if step.record is not None} == {b"one", b"two"}


def test_an_equal_one_too_many_goes_where_the_value_says_that_it_is_equal() -> None:
    for identity, expected in ((data(b"d"), ["delete"]), (rsa(b"r"), ["delete"]), (secret(b"k", b"123"), ["copy"])):
        tokens = [Token(), Token()]
        tokens[0].add(identity)
        tokens[1].add(identity)
        tokens[1].add(identity)
        assert kinds(settled(tokens)) == expected


def test_one_too_many_with_other_attributes_is_another() -> None:
    tokens = [Token(), Token()]
    tokens[0].add(rsa(b"r"), with_sign(LEAVES, b"\0"))
    tokens[1].add(rsa(b"r"), with_sign(LEAVES, b"\1"))
    tokens[1].add(rsa(b"r"), with_sign(LEAVES, b"\0"))
    made = settled(tokens)
    assert kinds(made) == ["copy"]


def test_same_name_other_value_are_two_objects() -> None:
    tokens = [Token(), Token()]
    tokens[0].add(data(b"d", b"one"))
    tokens[1].add(data(b"d", b"two"))
    assert kinds(settled(tokens)) == ["copy", "copy"]


# -- records ------------------------------------------------------------------------------------------------------


def test_a_record_without_a_key_goes_once_all_members_were_asked() -> None:
    tokens = [Token(), Token()]
    key = secret(b"k", b"123")
    tokens[0].add(key, STAYS, record_of(key))
    tokens[0].objects.clear()
    assert planned(tokens, whole=False).steps == ()
    (step,) = settled(tokens).steps
    assert isinstance(step, Clear)
    assert step.orphan


def test_a_record_that_one_lacks_is_written_and_one_twice_goes() -> None:
    tokens = [Token(), Token()]
    key = secret(b"k", b"123")
    for token in tokens:
        token.add(key, STAYS)
    tokens[0].add(key, STAYS, record_of(key))
    tokens[0].objects.popitem()
    assert [type(step) for step in settled(tokens).steps] == [Write]
    tokens[0].records[10**6] = next(iter(tokens[0].records.values()))
    assert kinds(settled(tokens)) == ["clear"]


def test_records_of_two_keys_both_stay() -> None:
    tokens = [Token(), Token()]
    key = secret(b"k")
    for token, blob in zip(tokens, (b"one", b"two"), strict=True):
        token.add(key, STAYS, record_of(key, blob=blob))
    made = planned(tokens)
    assert not [step for step in made.steps if isinstance(step, Clear)]
    assert [conflict.reason for conflict in made.conflicts if "several escrow records" in conflict.reason]


# -- for people ---------------------------------------------------------------------------------------------------


def test_every_step_has_a_line_and_no_label_forges_one() -> None:
    key = secret(b"k\n\xffdelete", b"123", b"\1\2")
    tokens = [Token(), Token()]
    tokens[0].add(key, STAYS, record_of(key))
    tokens[0].bury(tombstone(data(b"d")))
    tokens[1].add(data(b"d"))
    tokens[1].add(rsa(b"r"), STAYS)
    made = planned(tokens)
    lines = [line(step, NAMES) for step in made.steps] + [conflict_line(each, NAMES) for each in made.conflicts]
    assert not any("\n" in each for each in lines)
    assert 'copy secret key "k\\x0a\\xffdelete" id 0102 to b from its escrow record' in lines
    assert 'delete data object "d" on b (deleted meanwhile)' in lines
    assert any(each.startswith('conflict private key "r" id 31 on a: it must not leave') for each in lines)


def test_a_log_gets_few_of_many_conflicts() -> None:
    tokens = [Token(), Token()]
    for number in range(9):
        tokens[0].add(secret(b"k", bytes([number] * 3)), STAYS)
    lines = conflicts_for_log(planned(tokens).conflicts, NAMES)
    assert len(lines) == 4
    assert lines[-1].startswith("and 6 more")


def test_only_one_member() -> None:
    tokens = [Token(), Token(), Token()]
    tokens[0].add(data(b"d"))
    made = planned(tokens, only=2)
    assert [step.member for step in made.steps] == [2]
    assert isinstance(made.steps[0], Copy)
    assert Conflict not in map(type, made.conflicts)
    assert not [step for step in made.steps if isinstance(step, Delete)]


def test_nothing_is_copied_to_a_member_of_which_something_could_not_be_read() -> None:
    """It may be the object itself, or its tombstone."""
    inventories = [Inventory(unread=1), Inventory((Held(1, secret(b"k", b"123"), LEAVES),))]
    made = plan([Side(name, name, each) for name, each in zip("ab", inventories, strict=True)], frozenset("ab"))
    assert made.steps == ()
    (conflict,) = made.conflicts
    assert (conflict.member, conflict.bars, conflict.pinnable) == (0, True, True)


def test_the_record_of_a_key_that_a_vendors_tool_renamed_everywhere_stays() -> None:
    tokens = [Token(), Token()]
    for token in tokens:
        token.add(secret(b"new", b"123"), STAYS)
        token.records[token.add(data(b"d"))] = (record_label(secret(b"old", b"123")), record_of(secret(b"old", b"123")))
    assert planned(tokens).steps == ()
    for token in tokens:
        token.objects = {real: each for real, each in token.objects.items() if each[0] != secret(b"new", b"123")}
    assert kinds(planned(tokens)) == ["clear", "clear"]
