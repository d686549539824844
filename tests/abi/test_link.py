"""What every link does, whichever it is: the same tests on both, over real SoftHSM."""

import hashlib
import threading
import time

import pytest

from pyha.abi.link import TURN, Link, LinkDead, LinkFailed, LinkLate, open_local, open_process
from pyha.abi.native import ffi
from pyha.cryptoki.constants import CKR_FUNCTION_NOT_SUPPORTED, CKR_SESSION_HANDLE_INVALID
from pyha.cryptoki.functions import BY_NAME
from tests.abi.link_tools import LINKS, SoftHSMCalls, lay, leased, results, soon, start

MIB = 1 << 20


def test_arguments_arrive_and_results_return(calls: SoftHSMCalls) -> None:
    session = calls.open()
    first, second = calls.random(session, 32), calls.random(session, 32)
    assert len({first, second, bytes(32)}) == 3


def test_the_module_s_refusal_is_the_answer(calls: SoftHSMCalls) -> None:
    session = calls.open()
    with leased(calls.link) as arena:
        assert calls.call(arena, "C_GetSessionInfo", session + 1, arena.there) == CKR_SESSION_HANDLE_INVALID


def test_a_function_the_module_has_not_is_not_offered_and_not_supported(calls: SoftHSMCalls) -> None:
    calls.open()
    assert calls.link.offers(BY_NAME["C_Sign"].index)
    assert not calls.link.offers(BY_NAME["C_SessionCancel"].index)
    with leased(calls.link) as arena:
        assert calls.call(arena, "C_SessionCancel", 0, 0) == CKR_FUNCTION_NOT_SUPPORTED


@pytest.mark.parametrize("size", [0, 65536 - 256, 65536 - 255, MIB, 8 * MIB, 40 * MIB])
def test_arguments_of_any_size(calls: SoftHSMCalls, size: int) -> None:
    session = calls.open()
    data = hashlib.shake_128(b"data").digest(size)
    for _ in range(4):  # kept memory and fresh memory alike
        assert calls.sha256(session, data) == hashlib.sha256(data).digest()


def test_large_arguments_from_several_threads(calls: SoftHSMCalls) -> None:
    calls.open()

    def digest(size: int) -> bool:
        data = hashlib.shake_128(size.to_bytes(4)).digest(size)
        together.wait()
        return calls.sha256(calls.session(), data) == hashlib.sha256(data).digest()

    together = threading.Barrier(6)
    running = [start(digest, MIB * times) for times in (1, 1, 2, 3, 5, 6)]
    assert all(future.result() for future in running)


@pytest.mark.parametrize("capacity", [16 * TURN + 4096, MIB])
def test_a_series_makes_each_call_with_words_of_its_own(calls: SoftHSMCalls, capacity: int) -> None:
    session, index = calls.open(), BY_NAME["C_GenerateRandom"].index
    with leased(calls.link, capacity) as arena:
        places = [16 * TURN + 64 * number for number in range(16)]
        lay(arena, [(session + (number == 7), arena.there + at, 16 + number) for number, at in enumerate(places)])
        assert calls.link.series(arena, index, 16, 60.0, soon()) == 16
        assert results(arena, 16) == [CKR_SESSION_HANDLE_INVALID if number == 7 else 0 for number in range(16)]
        made = [bytes(arena.buffer[at : at + 64]) for at in places]
        assert [len(each.rstrip(b"\0")) <= 16 + number for number, each in enumerate(made)] == [True] * 16
        assert len(set(made)) == 16
        assert made[7] == bytes(64)


def test_a_series_begins_no_call_when_its_time_is_over_and_makes_one(calls: SoftHSMCalls) -> None:
    session, index = calls.open(), BY_NAME["C_GenerateRandom"].index
    with leased(calls.link) as arena:
        lay(arena, [(session, arena.there + 1024 + 16 * number, 16) for number in range(8)])
        assert calls.link.series(arena, index, 8, 0.0, soon()) == 1
        assert bytes(arena.buffer[1024:1040]) != bytes(16)
        assert bytes(arena.buffer[1040:1152]) == bytes(112)
        assert calls.link.series(arena, index, 8, 60.0, soon()) == 8


def test_a_series_has_its_turns_in_its_memory(link: Link) -> None:
    with leased(link) as arena, pytest.raises(ValueError, match="more turns than there is room for"):
        link.series(arena, 0, arena.capacity // TURN + 1, 60.0, soon())


@pytest.mark.parametrize("used", [1, 4096, 4097, 60000, MIB])
def test_what_was_used_is_wiped_on_release(link: Link, used: int) -> None:
    arena = link.arena(used, soon())
    ffi.memmove(arena.here, b"\xff" * used, used)
    link.release(arena, used)
    assert bytes(ffi.buffer(arena.here, used)) == bytes(used)


def test_leased_arenas_share_nothing(link: Link) -> None:
    with leased(link) as first, leased(link) as second, leased(link, MIB) as third:
        for number, arena in enumerate((first, second, third)):
            arena.words[9] = number
            ffi.memmove(arena.here, bytes([number]) * 4096, 4096)
        assert [arena.words[9] for arena in (first, second, third)] == [0, 1, 2]
        assert [bytes(ffi.buffer(arena.here, 4096)) for arena in (first, second, third)] == [
            bytes([number]) * 4096 for number in range(3)
        ]


def test_sixty_four_threads_at_once_and_a_thousand_waiting(calls: SoftHSMCalls) -> None:
    session = calls.open()
    before = threading.stack_size(256 << 10)
    try:
        running = [start(calls.random, session, 16) for _ in range(1064)]
    finally:
        threading.stack_size(before)
    assert len({future.result() for future in running}) == 1064


def test_alone_is_who_waits_for_the_calls_that_are_out_and_lets_no_other_in(link: Link) -> None:
    out = link.arena(16, soon())
    assert link.alone(time.monotonic()) is None, "a call is out"
    alone = start(link.alone, soon())
    with pytest.raises(LinkLate):
        link.arena(16, time.monotonic())
    link.release(out, 16)
    assert alone.result() is not None
    with pytest.raises(LinkLate):
        link.arena(16, time.monotonic())
    link.share()
    out = link.arena(16, soon())
    assert link.close(), "a call may be inside"
    link.release(out, 16)
    assert not link.close()


def test_who_is_alone_closes_a_link_that_nobody_is_inside_of(link: Link) -> None:
    link.release(link.arena(16, soon()), 16)
    assert link.alone(soon()) is not None
    waiting = start(link.arena, 16, soon())
    assert not link.close()
    assert isinstance(waiting.exception(), LinkDead)


def test_closed_is_closed(link: Link) -> None:
    assert link.alive
    arena = link.arena(16, soon())
    link.close()
    link.close()
    assert not link.alive
    with pytest.raises(LinkDead) as death:
        link.invoke(arena, BY_NAME["C_GetInfo"].index, soon())
    assert not death.value.culprit
    with pytest.raises(LinkDead):
        link.series(arena, BY_NAME["C_GetInfo"].index, 2, 60.0, soon())
    link.release(arena, 16)
    with pytest.raises(LinkDead):
        link.arena(16, soon())


def test_memory_outlives_the_link(link: Link) -> None:
    small, large = link.arena(16, soon()), link.arena(MIB, soon())
    link.close()
    del link
    for arena in (small, large):
        ffi.memmove(arena.here, b"still here", 10)
        assert bytes(ffi.buffer(arena.here, 10)) == b"still here"


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("/nowhere/module.so", "cannot load /nowhere/module.so: "),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", "is no PKCS #11 module: it has no C_GetFunctionList"),
    ],
)
def test_what_cannot_be_loaded(kind: str, module: str, sentence: str) -> None:
    with pytest.raises(LinkFailed, match=sentence) as failure:
        open_process(module, {}, soon()) if kind == "process" else open_local(module)
    assert "\n" not in str(failure.value)
