"""Many objects are created in one hand-over as each is by itself, and of each it is known what came of it."""

import pytest

from pyha.abi.link import LinkLate, _Link
from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute, Template
from pyha.ha.identity import ulong
from pyha.runtime.housekeeping import create_many, read_attributes, search
from pyha.runtime.member import Connection, MemberBusy, MemberLost
from tests.abi.link_tools import soon
from tests.abi.test_series import member, plan, session  # noqa: F401
from tests.chaos import Plan

# By a helper alone: SoftHSM would still be logged in here from the tests of another file.
pytestmark = pytest.mark.parametrize("member", ["process"], indirect=True)


def data(label: bytes, value: bytes = b"value") -> Template:
    told = {ck.CKA_CLASS: ulong(ck.CKO_DATA), ck.CKA_TOKEN: b"\1", ck.CKA_LABEL: label, ck.CKA_VALUE: value}
    return tuple(Attribute(kind, each) for kind, each in told.items() if each)


MANY = [data(b"one"), data(b"two", b""), data(b"three", b"3" * 5000), data(b""), data(b"five" * 40)]


def labels(member: Connection, session: int) -> list[bytes]:  # noqa: F811
    """Of all token objects."""
    reals = search(member, session, (Attribute(ck.CKA_TOKEN, b"\1"),), soon())
    return sorted(read_attributes(member, session, real, (ck.CKA_LABEL,), soon())[ck.CKA_LABEL] for real in reals)


@pytest.fixture(autouse=True)
def at_ease(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are made, on however busy a machine."""
    monkeypatch.setattr("pyha.runtime.member._BUDGET", 60.0)


def test_each_has_what_it_was_given(member: Connection, session: int) -> None:  # noqa: F811
    made = create_many(member, session, MANY * 20, soon())
    assert len(made) == len(MANY) * 20
    for (rv, real), template in zip(made, MANY * 20, strict=False):
        assert rv == ck.CKR_OK
        told = {each.type: each.value for each in template}
        shown = read_attributes(member, session, real, (ck.CKA_CLASS, ck.CKA_TOKEN, ck.CKA_LABEL, ck.CKA_VALUE), soon())
        assert {kind: value for kind, value in shown.items() if value} == told
    assert len(labels(member, session)) == len(made)


@pytest.mark.parametrize(
    ("fault", "rv", "there"),
    [
        ("answer CKR_DEVICE_MEMORY", ck.CKR_DEVICE_MEMORY, 4),
        ("answer-after CKR_GENERAL_ERROR", ck.CKR_GENERAL_ERROR, 5),
        ("write 0 hex:0000000000000000", ck.CKR_DEVICE_ERROR, 5),  # success, and no handle
    ],
)
def test_one_that_fails(
    member: Connection,  # noqa: F811
    session: int,  # noqa: F811
    plan: Plan,  # noqa: F811
    fault: str,
    rv: int,
    there: int,
) -> None:
    plan.set(f"C_CreateObject nth=2 -> {fault}")
    made = create_many(member, session, MANY, soon())
    assert [each for each, _ in made] == [ck.CKR_OK, rv, ck.CKR_OK, ck.CKR_OK, ck.CKR_OK]
    assert [bool(real) for _, real in made] == [True, False, True, True, True]
    assert len(labels(member, session)) == there


def test_a_slow_member_makes_as_many_as_there_is_time_for(
    member: Connection,  # noqa: F811
    session: int,  # noqa: F811
    plan: Plan,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pyha.runtime.member._BUDGET", 0.01)
    plan.set("C_CreateObject -> delay 20")
    assert len(create_many(member, session, MANY, soon())) == 1
    assert labels(member, session) == [b"one"]


def test_what_cannot_be_told_may_all_have_been_made(
    member: Connection,  # noqa: F811
    session: int,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_Link, "series", lambda *asked: 0)
    assert create_many(member, session, MANY, soon()) == [(ck.CKR_DEVICE_ERROR, 0)] * len(MANY)
    assert member.nonsense


def test_how_creating_many_fails(
    member: Connection,  # noqa: F811
    session: int,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(MemberBusy):
        create_many(member, session, MANY, 0.0)

    def late(*asked: object) -> int:
        raise LinkLate

    monkeypatch.setattr(_Link, "series", late)
    with pytest.raises(MemberLost, match="C_CreateObject did not return within its deadline"):
        create_many(member, session, MANY, soon())
