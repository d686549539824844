"""Attribute arrays as values: packed, compared, and the stronger of several."""

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.arrays import attribute_of, is_dated, lost, packed, strongest, unpacked, values_of
from pyha.ha.steps import Change, Conflict, Copy
from tests.unit.model_tokens import LEAVES, STAYS, Token, planned, record_of, resync, secret

YES, NO = Attribute(ck.CKA_EXTRACTABLE, b"\1"), Attribute(ck.CKA_SENSITIVE, b"\0")
LABEL = Attribute(ck.CKA_LABEL, b"")
NESTED = Attribute(ck.CKA_UNWRAP_TEMPLATE, (LABEL, YES))
KEY = secret(b"k", b"123")


@pytest.mark.parametrize("template", [(), (YES,), (LABEL, NO), (LABEL, YES, NESTED)])
def test_what_was_packed_comes_out_again_in_whatever_order_it_was_given(template: Template) -> None:
    assert packed(template) == packed(template[::-1])
    assert set(unpacked(packed(template))) == set(template)


def test_what_demands_more_protects_more() -> None:
    none, one, other, both = (packed(each) for each in ((), (YES,), (NO,), (NO, YES)))
    assert (none, strongest([none, one, both, other]), strongest([one, other])) == (b"", both, one)
    wraps = ck.CKA_WRAP_TEMPLATE
    assert lost({wraps: one}, {wraps: both}) == ()
    assert lost({wraps: both}, {wraps: one}) == lost({wraps: one}, {wraps: other}) == lost({wraps: one}, {}) == (wraps,)
    assert lost({wraps: none, ck.CKA_SIGN: b"\0"}, {ck.CKA_SIGN: b"\1"}) == (ck.CKA_SIGN,)
    assert values_of((Attribute(wraps, (YES,)), LABEL)) == {wraps: one, ck.CKA_LABEL: b""}
    assert attribute_of(wraps, one) == Attribute(wraps, (YES,))


def test_the_stronger_goes_into_copies_and_who_has_less_is_named() -> None:
    tokens = [Token(), Token(), Token()]
    weak, strong = ((ck.CKA_UNWRAP_TEMPLATE, packed(each)) for each in ((YES,), (YES, NO)))
    tokens[0].add(KEY, (*LEAVES, weak))
    tokens[1].add(KEY, (*LEAVES, strong))
    made = planned(tokens)
    (copy,) = made.steps
    assert isinstance(copy, Copy)
    assert strong in copy.settings
    assert made.conflicts == (
        Conflict(0, KEY, "CKA_UNWRAP_TEMPLATE differs and cannot be set on a token object", bars=True),
    )


def test_a_date_is_set_as_the_first_member_has_it() -> None:
    tokens = [Token(), Token()]
    tokens[0].add(KEY, (*LEAVES, (ck.CKA_END_DATE, b"20300101")))
    tokens[1].add(KEY, (*LEAVES, (ck.CKA_END_DATE, b"")))
    (change,) = resync(tokens).steps
    assert isinstance(change, Change)
    assert (change.member, change.changes) == (1, (Attribute(ck.CKA_END_DATE, b"20300101"),))
    assert tokens[0].content() == tokens[1].content()


@pytest.mark.parametrize("shown", [(), ((ck.CKA_END_DATE, b"20300101"),)])
def test_a_key_whose_dates_only_its_record_tells_comes_from_it(shown: tuple[tuple[int, bytes], ...]) -> None:
    tokens = [Token(), Token()]
    record = record_of(KEY, (*LEAVES, (ck.CKA_END_DATE, b"20300101")))
    assert is_dated(record.template)
    assert not is_dated((Attribute(ck.CKA_END_DATE, b""),))
    tokens[0].add(KEY, (*LEAVES, *shown), record)
    (copy,) = [step for step in planned(tokens).steps if isinstance(step, Copy)]
    assert copy.record == (None if shown else record)


def test_no_copy_is_planned_from_a_key_that_stays_without_its_record() -> None:
    tokens = [Token(), Token()]
    tokens[0].add(KEY, (*STAYS, (ck.CKA_WRAP_TEMPLATE, packed((YES,)))))
    assert planned(tokens).steps == ()
