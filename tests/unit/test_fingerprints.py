"""Which tokens hold the group's domain keys, told by fingerprints alone."""

import pytest

from pyha.ha.domain import DomainKey
from pyha.ha.fingerprints import Fingerprint, majority, needs_proof, objection

SEALED, OPEN, RSA = DomainKey.SEALED, DomainKey.OPEN, DomainKey.SEALED_RSA
A, B = Fingerprint(b"aaa", b"A" * 16), Fingerprint(b"bbb", b"B" * 16)
CHECKED, PROVED = Fingerprint(b"aaa"), Fingerprint(b"", b"A" * 16)


@pytest.mark.parametrize(
    ("one", "other", "agrees"),
    [
        (A, A, True),
        (A, B, False),
        (A, CHECKED, True),
        (A, PROVED, True),
        (B, CHECKED, False),
        (B, PROVED, False),
        (CHECKED, PROVED, None),
        (A, Fingerprint(b""), None),
        (A, Fingerprint(b"aaa", b"B" * 16), False),
        (A, Fingerprint(b"bbb", b"A" * 16), False),
    ],
)
def test_two_fingerprints_agree_where_all_that_both_tell_is_the_same(
    one: Fingerprint, other: Fingerprint, agrees: bool | None
) -> None:
    assert one.agrees(other) is agrees
    assert other.agrees(one) is agrees


def test_an_objection_names_the_key() -> None:
    assert objection({SEALED: A, OPEN: B}, {SEALED: A, OPEN: B, RSA: A}) is None
    assert objection({SEALED: A, OPEN: B}, {SEALED: A}) == "its open domain key is missing"
    assert objection({SEALED: A, OPEN: B}, {SEALED: A, OPEN: A}) == "its open domain key is another one"
    untold = {SEALED: Fingerprint(b""), OPEN: B}
    assert objection({SEALED: A, OPEN: B}, untold) == "its sealed domain key cannot be told from another one"
    assert objection({}, {}) is None


def test_a_proof_is_needed_where_no_check_value_is_told() -> None:
    assert needs_proof({SEALED: PROVED, OPEN: A})
    assert not needs_proof({SEALED: A, OPEN: CHECKED})


def test_most_members_are_believed_and_the_first_where_there_are_as_many() -> None:
    assert majority([{SEALED: B}, {SEALED: A}, {SEALED: A}]) == {SEALED: A}
    assert majority([{SEALED: B}, {SEALED: A}]) == {SEALED: B}
    assert majority([{SEALED: B}, {SEALED: CHECKED}, {SEALED: A}, {}]) == {SEALED: A}, "who tells less agrees too"
    assert majority([]) == {}
    assert majority([{SEALED: A}, {RSA: B}]) == {SEALED: A, RSA: B}
