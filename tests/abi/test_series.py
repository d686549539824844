"""What many objects show in one hand-over is what each shows alone, and what is unusual is asked of it alone."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pyha.abi import series
from pyha.abi.codec import Codecs
from pyha.abi.link import LinkLate, _Link
from pyha.abi.native import ffi
from pyha.abi.pins import keep
from pyha.cli.chaos_plan import chaos_module
from pyha.cryptoki import constants as ck
from pyha.cryptoki.values import Attribute
from pyha.ha.identity import READ, ulong
from pyha.ha.inventory import COMPARED
from pyha.runtime import housekeeping
from pyha.runtime import member as of_member
from pyha.runtime.housekeeping import in_series, read_attributes, read_many
from pyha.runtime.member import Connection, MemberBusy, MemberLost
from pyha.runtime.showing import shown, shown_in_series
from pyha.runtime.uri import TokenUri
from tests.abi.conftest import opened
from tests.abi.link_tools import LINKS, soon
from tests.chaos import Plan
from tests.softhsm import SoftHSM

P256 = bytes.fromhex("06082a8648ce3d030107")
POINT = bytes.fromhex(
    "04410460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
    "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
)
"""RFC 6979, A.2.5."""
TOKEN = (ck.CKA_TOKEN, b"\1")
PUBLIC = ((ck.CKA_CLASS, ulong(ck.CKO_PUBLIC_KEY)), (ck.CKA_PRIVATE, b"\0"))
SECRET = ((ck.CKA_CLASS, ulong(ck.CKO_SECRET_KEY)), (ck.CKA_KEY_TYPE, ulong(ck.CKK_GENERIC_SECRET)))
DATA = (ck.CKA_CLASS, ulong(ck.CKO_DATA))
OBJECTS = (
    (DATA,),
    (DATA, (ck.CKA_PRIVATE, b"\0"), (ck.CKA_LABEL, b"a label"), (ck.CKA_VALUE, b"value")),
    (DATA, (ck.CKA_LABEL, b"l" * 600), (ck.CKA_APPLICATION, b"a" * 512), (ck.CKA_VALUE, b"v" * 5000)),
    (DATA, (ck.CKA_OBJECT_ID, b"\6\1\52"), (ck.CKA_VALUE, b"v" * 2049)),
    (*PUBLIC, (ck.CKA_KEY_TYPE, ulong(ck.CKK_EC)), (ck.CKA_EC_PARAMS, P256), (ck.CKA_EC_POINT, POINT)),
    (*PUBLIC, (ck.CKA_KEY_TYPE, ulong(ck.CKK_RSA)), (ck.CKA_MODULUS, b"\x81" * 256), (ck.CKA_PUBLIC_EXPONENT, b"\3")),
    (*PUBLIC, (ck.CKA_KEY_TYPE, ulong(ck.CKK_RSA)), (ck.CKA_MODULUS, b"\x81" * 1024), (ck.CKA_PUBLIC_EXPONENT, b"\3")),
    (*SECRET, (ck.CKA_VALUE, b"k" * 32), (ck.CKA_ID, b"id"), (ck.CKA_SENSITIVE, b"\1")),
    (*SECRET, (ck.CKA_VALUE, b"k" * 32), (ck.CKA_START_DATE, b"20260101"), (ck.CKA_EXTRACTABLE, b"\1")),
)
ALL = tuple(dict.fromkeys((*READ, ck.CKA_START_DATE, ck.CKA_MODIFIABLE, ck.CKA_SENSITIVE, ck.CKA_ALLOWED_MECHANISMS)))

HELPER = pytest.mark.parametrize("member", ["process"], indirect=True)


@pytest.fixture(params=LINKS)
def member(
    request: pytest.FixtureRequest, softhsm: SoftHSM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plan: Plan
) -> Iterator[Connection]:
    # However busy the machine is, a series is not cut short.
    monkeypatch.setattr(of_member, "_BUDGET", 60.0)
    token = softhsm.token("series")
    environment = {**token.environment, **plan.environment}
    link = opened(request.param, chaos_module(), environment, monkeypatch, tmp_path)
    made = Connection("member", 1, lambda deadline: link, TokenUri(token=token.label), Codecs())
    made.connect(soon())
    pin = token.pin.encode()
    assert made.login(ck.CKU_USER, keep(ffi.from_buffer(pin), len(pin)), soon()) == ck.CKR_OK
    yield made
    with suppress(MemberLost):
        made.logout(soon())  # of a module in this process, which the next test may share
    made.finish(soon())


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path / "plan")


@pytest.fixture
def session(member: Connection) -> int:
    return member.open_session(soon())


def made(member: Connection, session: int, template: tuple[tuple[int, bytes], ...]) -> int:
    given = tuple(Attribute(*each) for each in (TOKEN, *template))
    rv, results = member.call("C_CreateObject", soon(), session, given, None)
    assert rv == ck.CKR_OK, hex(rv)
    return int(results[2])


def singly(member: Connection, session: int, reals: list[int], wanted: tuple[int, ...]) -> list[dict[int, bytes]]:
    return [read_attributes(member, session, real, wanted, soon()) for real in reals]


@pytest.mark.parametrize("wanted", [ALL, (ck.CKA_VALUE,), (ck.CKA_CLASS,)])
def test_many_show_what_each_shows_alone(member: Connection, session: int, wanted: tuple[int, ...]) -> None:
    reals = [made(member, session, template) for template in OBJECTS] * 10
    reals[3:3] = [0, 4711]  # what is not there
    gone = made(member, session, OBJECTS[1])
    assert member.call("C_DestroyObject", soon(), session, gone)[0] == ck.CKR_OK
    reals.insert(50, gone)
    assert list(read_many(member, session, reals, wanted, soon)) == list(
        zip(reals, singly(member, session, reals, wanted), strict=True)
    )


def test_dates_and_arrays_of_many(member: Connection, session: int) -> None:
    """A key that demands something of those it wraps is asked alone, and so is a private one, whose dates SoftHSM does
    not read."""
    demands = (Attribute(ck.CKA_SENSITIVE, b"\1"),)
    wrapping: Any = (*SECRET, (ck.CKA_VALUE, b"k" * 32), (ck.CKA_WRAP_TEMPLATE, demands))
    dated = ((ck.CKA_PRIVATE, b"\0"), (ck.CKA_START_DATE, b"20260101"), (ck.CKA_END_DATE, b"20270101"))
    templates: Any = (*OBJECTS, wrapping, (*wrapping, *dated[:1]), (*OBJECTS[4], *dated[1:]))
    reals = [made(member, session, template) for template in templates]
    wanted = (*READ, *COMPARED)
    seen = [each for _, part in shown_in_series(member, session, reals, wanted, soon) for each in part]
    alone = [shown(member, session, real, wanted, soon()) for real in reals]
    assert [each for each, one in zip(seen, alone, strict=True) if each not in (None, one)] == []
    assert [len(one[ck.CKA_WRAP_TEMPLATE]) > 0 for one in alone[-3:-1]] == [True, True]
    assert seen[-3:-1] == [None, None]
    assert seen[-1] is not None
    assert seen[-1][ck.CKA_START_DATE] == b"20260101"
    assert len([each for each in seen if each is None]) < 6


def test_what_is_as_usual_takes_no_call_of_its_own(member: Connection, session: int, plan: Plan) -> None:
    """Objects that lack most of what is asked for, long labels but for one, and of no more than there is room for."""
    reals = [made(member, session, OBJECTS[number]) for number in (0, 1, 2, 3, 4, 5, 7, 1)]
    plan.set("C_GetAttributeValue -> delay 0")
    seen = [each for _, part in in_series(member, session, reals, READ, soon) for each in part]
    assert [number for number, each in enumerate(seen) if each is None] == [2]
    assert plan.fired() == ["C_GetAttributeValue"] * len(reals)


@HELPER
def test_a_series_of_more_than_fits_is_several(
    member: Connection, session: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series, "_SIZE", 20_000)
    housekeeping._series.cache_clear()
    reals = [made(member, session, OBJECTS[number % 2]) for number in range(9)]
    sizes = [len(part) for part, _ in in_series(member, session, reals, READ, soon)]
    assert len(sizes) > 2
    assert max(sizes) > 1
    assert sum(sizes) == 9
    assert [seen for _, seen in read_many(member, session, reals, READ, soon)] == singly(member, session, reals, READ)
    housekeeping._series.cache_clear()


def test_a_slow_member_makes_as_many_calls_as_there_is_time_for(
    member: Connection, session: int, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_member, "_BUDGET", 0.01)
    reals = [made(member, session, OBJECTS[1]) for _ in range(8)]
    plan.set("C_GetAttributeValue -> delay 20")
    assert [len(part) for part, _ in in_series(member, session, reals, READ, soon)] == [1] * 8


@HELPER
def test_one_error_among_many(member: Connection, session: int, plan: Plan) -> None:
    reals = [made(member, session, OBJECTS[1]) for _ in range(5)]
    plan.set("C_GetAttributeValue nth=3 -> answer CKR_DEVICE_ERROR")
    seen = [each is not None for _, part in in_series(member, session, reals, READ, soon) for each in part]
    assert seen == [True, True, False, True, True]


@HELPER
def test_a_length_beyond_its_room_is_not_believed(member: Connection, session: int, plan: Plan) -> None:
    """Said with CKR_OK, to each way of asking: of that object nothing is known."""
    reals = [made(member, session, OBJECTS[1]) for _ in range(3)]
    plan.set("C_GetAttributeValue -> length 100000")
    assert [seen for _, seen in read_many(member, session, reals, (ck.CKA_LABEL,), soon)] == [{}, {}, {}]
    assert member.nonsense >= 3


def test_what_there_is_no_memory_for_is_read_singly(
    member: Connection, session: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reals = [made(member, session, OBJECTS[1]) for _ in range(12)]
    expected = singly(member, session, reals, READ)

    def none_left(link: _Link, capacity: int, deadline: float) -> None:
        raise MemoryError

    monkeypatch.setattr(_Link, "_large", none_left)
    assert [seen for _, seen in read_many(member, session, reals, READ, soon)] == expected


@HELPER
def test_a_number_of_calls_that_cannot_be(member: Connection, session: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reals = [made(member, session, OBJECTS[1]) for _ in range(3)]
    expected = singly(member, session, reals, READ)
    monkeypatch.setattr(_Link, "series", lambda *asked: 0)
    assert [seen for _, seen in read_many(member, session, reals, READ, soon)] == expected
    assert member.nonsense


@HELPER
def test_how_a_series_fails(member: Connection, session: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reals = [made(member, session, OBJECTS[1]) for _ in range(3)]
    with pytest.raises(MemberBusy):
        list(in_series(member, session, reals, READ, lambda: 0.0))

    def late(*asked: object) -> int:
        raise LinkLate

    monkeypatch.setattr(_Link, "series", late)
    with pytest.raises(MemberLost, match="C_GetAttributeValue did not return within its deadline"):
        list(in_series(member, session, reals, READ, soon))
    with pytest.raises(MemberLost):
        list(in_series(member, session, reals, READ, soon))
