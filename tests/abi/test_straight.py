"""The C part of the straight way: what it refuses to read, what it moves, and what it leaves of it.

Over real SoftHSM through both links, with arguments that lie between guards.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyha.abi.link import Link, LinkDead, LinkLate, open_process
from pyha.abi.native import ffi, lib
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME
from tests.abi.link_tools import SoftHSMCalls, soon
from tests.chaos import Plan
from tests.softhsm import SoftHSM

GUARD = b"\xa5"
ORDINARY = (64 << 10) - 256
NULL = ffi.NULL


class Arguments:
    """A call's arguments as an application gives them, each kept alive. `memory`: of the last room for a result."""

    def __init__(self, name: str) -> None:
        self.index = BY_NAME[name].index
        self.struct = ffi.new(f"struct pyha_args_{name} *")
        self.call = ffi.new("pyha_straight *")
        self.alive: list[Any] = []
        self.memory: Any = None
        self.length: Any = None

    def given(self, field: str, data: bytes) -> "Arguments":
        """Bytes and their length."""
        self.alive.append(ffi.new("CK_BYTE[]", data or b"\0"))
        setattr(self.struct, field, self.alive[-1])
        setattr(self.struct, f"{field}_len", len(data))
        return self

    def room(self, field: str, size: int, told: int | None = None) -> "Arguments":
        """So much room, with guards behind it; `told`: what is said that it has."""
        self.memory = ffi.new("CK_BYTE[]", GUARD * (size + 64))
        setattr(self.struct, field, self.memory)
        told = size if told is None else told
        if field == "random":
            self.struct.random_len = told
        else:
            self.length = ffi.new("CK_ULONG *", told)
            setattr(self.struct, f"{field}_len", self.length)
        return self

    def mechanism(self, kind: int, parameter: bytes = b"") -> "Arguments":
        """A mechanism with these bytes as its parameter."""
        self.alive.append(ffi.new("CK_BYTE[]", parameter or b"\0"))
        self.alive.append(ffi.new("CK_MECHANISM *", [kind, self.alive[-1] if parameter else NULL, len(parameter)]))
        self.struct.mechanism = self.alive[-1]
        return self

    def read(self) -> bool:
        return bool(lib.pyha_straight_read(self.call, self.index, self.struct))

    def run(self, link: Link, session: int, key: int = 0) -> int:
        """The call on a member: its outcome. The arena is empty afterwards."""
        assert self.read()
        arena = link.spare() or link.arena(16, soon())
        outcome = link.straight(arena, self.call, session, key, soon())
        assert not any(bytes(arena.buffer))
        return outcome

    def content(self) -> bytes:
        """All of the memory for the result, guards too."""
        return bytes(ffi.buffer(self.memory))[:-1]  # the last is a NUL of cffi


def random_of(size: int) -> Arguments:
    return Arguments("C_GenerateRandom").room("random", size)


def digest(data: bytes, size: int) -> Arguments:
    return Arguments("C_Digest").given("data", data).room("result", size)


def start(link: Link, session: int) -> None:
    assert Arguments("C_DigestInit").mechanism(ck.CKM_SHA256).run(link, session) == 0


@pytest.fixture
def session(calls: SoftHSMCalls) -> int:
    return calls.open()


@pytest.mark.parametrize("size", [0, 1, 16, 17, 4096, ORDINARY - 64])
def test_random_bytes_fill_their_room_and_nothing_else(calls: SoftHSMCalls, session: int, size: int) -> None:
    call = random_of(size)
    assert call.run(calls.link, session) == 0
    assert call.content()[size:] == GUARD * 64
    assert size < 16 or call.content()[:size] != GUARD * size


@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 16])
def test_a_digest(calls: SoftHSMCalls, session: int, data: bytes) -> None:
    start(calls.link, session)
    call = digest(data, 40)
    assert call.run(calls.link, session) == 0
    assert call.length[0] == 32
    assert call.content() == hashlib.sha256(data).digest() + GUARD * (8 + 64)


def test_room_that_is_too_small_is_told_and_not_touched(calls: SoftHSMCalls, session: int) -> None:
    start(calls.link, session)
    call = digest(b"data", 31)
    assert call.run(calls.link, session) == lib.PYHA_ANSWERED
    assert (call.call.rv, call.call.length) == (ck.CKR_BUFFER_TOO_SMALL, 32)
    assert (call.length[0], set(call.content())) == (31, set(GUARD))


def test_a_refusal_leaves_the_application_s_memory_alone(calls: SoftHSMCalls, session: int) -> None:
    call = random_of(16)
    assert call.run(calls.link, session + 77) == lib.PYHA_ANSWERED
    assert call.call.rv == ck.CKR_SESSION_HANDLE_INVALID
    assert set(call.content()) == set(GUARD)


def test_what_stands_in_place_of_its_input(calls: SoftHSMCalls, session: int) -> None:
    start(calls.link, session)
    call = digest(b"", 64)
    ffi.memmove(call.memory, b"in place", 8)
    call.struct.data, call.struct.data_len = call.memory, 8
    assert call.run(calls.link, session) == 0
    assert call.content()[:32] == hashlib.sha256(b"in place").digest()


def refused() -> Iterator[tuple[str, Arguments]]:
    """What is not for the straight way, each a call that is whole but for one thing."""
    yield "random into nowhere", Arguments("C_GenerateRandom")
    yield "more random bytes than fit", random_of(8).room("random", 8, ORDINARY)
    yield "a length beyond all memory", random_of(8).room("random", 8, 2**64 - 1)
    query = digest(b"data", 8)
    query.struct.result = NULL
    yield "a query for a length", query
    unsaid = digest(b"data", 8)
    unsaid.struct.result_len = NULL
    yield "room of no said length", unsaid
    nowhere = digest(b"data", 8)
    nowhere.struct.data = NULL
    yield "data from nowhere", nowhere
    yield "a length that was never set", digest(b"data", 8).room("result", 8, 2**63)
    yield "sizes whose sum is too much", digest(bytes(ORDINARY - 128), 8).room("result", 8, 4096)
    long = digest(b"data", 8)
    long.struct.data_len = 2**64 - 8
    yield "data whose length wraps around", long
    yield "no mechanism", Arguments("C_SignInit")
    absent = Arguments("C_SignInit").mechanism(1, b"parameter")
    absent.alive[-1].pParameter = NULL
    yield "a parameter from nowhere", absent
    yield "a parameter without end", Arguments("C_SignInit").mechanism(1, bytes(4097))
    yield "a function of the general way", Arguments("C_WrapKey")


@pytest.mark.parametrize(("what", "arguments"), list(refused()), ids=lambda each: each if isinstance(each, str) else "")
def test_what_is_unusual_goes_the_general_way(what: str, arguments: Arguments) -> None:
    assert not arguments.read(), what


def test_what_is_read_of_a_call() -> None:
    call = Arguments("C_SignInit").mechanism(ck.CKM_AES_CMAC, b"12345")
    call.struct.session, call.struct.key = 7, 9
    assert call.read()
    assert call.call.arguments == ffi.cast("void *", call.struct)
    assert bytes(ffi.buffer(call.call.parameter, 5)) == b"12345"
    assert digest(b"data", 48).read()


@pytest.fixture
def lying(softhsm: SoftHSM, tmp_path: Path) -> Iterator[tuple[Plan, Link]]:
    """A module of faults over SoftHSM, behind a helper."""
    from pyha.cli.chaos_plan import chaos_module

    token = softhsm.token("lying")
    plan = Plan(tmp_path / "plan")
    link = open_process(chaos_module(), {**token.environment, **plan.environment}, soon())
    yield plan, link
    link.close()


def test_a_length_beyond_the_room_is_not_believed(lying: tuple[Plan, Link]) -> None:
    plan, over = lying
    session = SoftHSMCalls(over).open()
    start(over, session)
    plan.set("C_Digest -> length 41")
    call = digest(b"data", 40)
    assert call.run(over, session) == lib.PYHA_MALFORMED
    assert (call.length[0], set(call.content())) == (40, set(GUARD))


def test_a_helper_that_ends_in_a_call(lying: tuple[Plan, Link]) -> None:
    plan, over = lying
    session = SoftHSMCalls(over).open()
    plan.set("C_GenerateRandom -> crash")
    call = random_of(16)
    with pytest.raises(LinkDead) as death:
        call.run(over, session)
    assert death.value.culprit
    assert set(call.content()) == set(GUARD)


def test_a_call_that_is_late(lying: tuple[Plan, Link]) -> None:
    plan, over = lying
    session = SoftHSMCalls(over).open()
    plan.set("C_GenerateRandom -> hang")
    call = random_of(16)
    assert call.read()
    arena = over.arena(16, soon())
    with pytest.raises(LinkLate):
        over.straight(arena, call.call, session, 0, 0.0)
    assert set(call.content()) == set(GUARD)
    # Whatever it still writes, nobody gets this memory again.
    assert over.spare() is not arena
