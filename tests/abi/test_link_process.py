"""What only a helper process can do: hang, die, lie, be killed - and what its application then sees."""

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyha.abi.link import Link, LinkBusy, LinkDead, LinkFailed, LinkLate, open_local, open_process
from pyha.abi.native import ffi, lib
from pyha.cryptoki.constants import CKR_FUNCTION_NOT_SUPPORTED
from pyha.cryptoki.functions import BY_NAME, COUNT_2_40, FUNCTIONS
from tests.abi.link_tools import (
    COMMAND,
    Death,
    Hostile,
    Process,
    command,
    hostile,
    invoke,
    lay,
    leased,
    results,
    soon,
    start,
)

MIB = 1 << 20


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the hostile modules are compiled."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture
def link(modules: Path) -> Iterator[Link]:
    link = open_process(hostile(modules), {"PYHA_TEST": "set for the helper"}, soon(), max_in_flight=8, title="hostile")
    yield link
    link.close()


@pytest.fixture
def helper(link: Link) -> Iterator[Process]:
    helper = Process(command(link, Hostile.PID))
    yield helper
    helper.close()


def wait_until_hung(link: Link, calls: int) -> None:
    """Returns once so many calls hang inside the module: CRASH waits for them, and `others` does not crash."""
    assert command(link, Hostile.CRASH, calls, 99) == (1 << 64) - 1


# --- A call ---


def test_all_ten_words_and_a_64_bit_result(link: Link) -> None:
    words = [1 << shift for shift in (60, 3, 13, 23, 33, 41, 7, 17, 27)]
    expected = sum(number * word for number, word in enumerate(words, 1)) % (1 << 64)
    assert command(link, Hostile.MIX, *words) == expected
    assert command(link, Hostile.ANSWER, 0x8000_0000_0000_0001) == 0x8000_0000_0000_0001


def test_the_function_asked_for_is_the_one_called(link: Link) -> None:
    with leased(link) as arena:
        assert invoke(link, arena, BY_NAME["C_Finalize"].index, Hostile.ANSWER, 5) == 0x1234
        assert invoke(link, arena, BY_NAME["C_WaitForSlotEvent"].index, Hostile.ANSWER, 5) == 5
        assert invoke(link, arena, len(FUNCTIONS) + 1000) == CKR_FUNCTION_NOT_SUPPORTED


@pytest.mark.parametrize("size", [100, MIB, 8 * MIB, 100 * MIB])
def test_the_callee_writes_where_the_caller_reads(link: Link, size: int) -> None:
    with leased(link, size) as arena:
        assert invoke(link, arena, COMMAND, Hostile.FILL, arena.there, size, 3) == 0
        assert bytes(ffi.buffer(arena.here + size - 100, 100)) == b"\3" * 100
        ffi.memmove(arena.here, b"\4", 1)
        assert invoke(link, arena, COMMAND, Hostile.SUM, arena.there, size) == 3 * size + 1


def test_large_memory_is_given_back(link: Link) -> None:
    """Far more address space than the helper may have: what was unmapped must be gone on its side too."""
    pid = command(link, Hostile.PID)
    resource.prlimit(pid, resource.RLIMIT_AS, (4 << 30, 4 << 30))
    for _ in range(40):
        arena = link.arena(200 * MIB, soon())
        assert invoke(link, arena, COMMAND, Hostile.SUM, arena.there + 200 * MIB - 1, 1) == 0
        link.release(arena, 1)
    for _ in range(9):  # more than there are places
        with pytest.raises(MemoryError):
            link.arena(8 << 30, soon())
    assert command(link, Hostile.ANSWER, 1) == 1, "what could not be had did no harm"


def test_a_helper_without_room_for_more_threads_goes_on_with_those_it_has(link: Link, helper: Process) -> None:
    before = resource.prlimit(helper.pid, resource.RLIMIT_AS)
    resource.prlimit(helper.pid, resource.RLIMIT_AS, (4096, before[1]))
    held = link.arena(16, soon())
    for _ in range(9):
        with pytest.raises(LinkLate):
            link.arena(16, time.monotonic() + 0.03)
    waiting = start(link.arena, 16, soon())
    link.release(held, 16)
    assert waiting.result() is held
    resource.prlimit(helper.pid, resource.RLIMIT_AS, before)
    others = [link.arena(16, soon()) for _ in range(7)]
    assert len({arena.there for arena in [held, *others]}) == 8


def test_an_arena_that_comes_back_while_its_taker_is_about_to_wait(modules: Path) -> None:
    class Meddling:
        """The link's lock, and somebody who gives an arena back at the moment when nobody waits yet."""

        def __init__(self) -> None:
            self.lock, self.entered = threading.Lock(), 0

        def __enter__(self) -> None:
            self.entered += 1
            if self.entered == 2:
                link.release(held, 16)
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    link = open_process(hostile(modules), {}, soon(), max_in_flight=1)
    held = link.arena(16, soon())
    link._lock = Meddling()  # type: ignore[attr-defined]
    assert link.arena(16, soon()) is held
    link.close()


def test_memory_goes_with_its_last_user_though_the_link_stays(modules: Path) -> None:
    def mapped() -> int:
        gc.collect()
        return Path("/proc/self/maps").read_text().count("memfd:pyha-arena")

    before = mapped()
    link = open_process(hostile(modules), {}, soon())
    arenas = [link.arena(16, soon()), link.arena(16, soon()), link.arena(MIB, soon())]
    assert mapped() == before + 4
    link.release(arenas.pop(), 16)
    link.close()
    while arenas:
        link.release(arenas.pop(), 16)
    assert mapped() == before
    assert not link.alive


def test_calls_run_side_by_side(link: Link) -> None:
    running = [start(command, link, Hostile.GATE, 8) for _ in range(8)]
    assert [future.result() for future in running] == [0] * 8


def test_a_place_is_waited_for_in_turn(modules: Path) -> None:
    link = open_process(hostile(modules), {}, soon(), max_in_flight=1)
    held, served = link.arena(16, soon()), []

    def serve(number: int) -> None:
        arena = link.arena(16, soon())
        served.append(number)
        link.release(arena, 16)

    running = []
    for number in range(20):
        running.append(start(serve, number))
        while len(link._waiting) <= number:  # type: ignore[attr-defined]
            time.sleep(0.001)
    with pytest.raises(LinkBusy):
        link.arena(16, time.monotonic() + 0.01)
    link.release(held, 16)
    for future in running:
        future.result()
    assert served == list(range(20))
    link.close()


# --- A series of calls ---


def test_a_helper_that_dies_in_a_series_names_it(link: Link, helper: Process) -> None:
    innocent = start(command, link, Hostile.HANG)
    wait_until_hung(link, 1)
    with leased(link) as arena:
        lay(arena, [(Hostile.ANSWER, 1), (Hostile.CRASH, 1, Death.SEGV), (Hostile.ANSWER, 3)])
        with pytest.raises(LinkDead) as death:
            link.series(arena, COMMAND, 3, 60.0, soon())
        assert death.value.culprit
        assert results(arena, 3) == [1, 0, 0]
    other = innocent.exception()
    assert isinstance(other, LinkDead)
    assert not other.culprit
    assert helper.ended()


def test_a_series_that_hangs_is_late(link: Link) -> None:
    arena = link.arena(16, soon())
    lay(arena, [(Hostile.ANSWER, 1), (Hostile.HANG,), (Hostile.ANSWER, 3)])
    with pytest.raises(LinkLate):
        link.series(arena, COMMAND, 3, 60.0, time.monotonic() + 0.05)
    link.release(arena, 16)
    assert all(link.arena(16, soon()).there != arena.there for _ in range(7)), "it may still write there"


def test_close_ends_a_series(link: Link, helper: Process) -> None:
    arena = link.arena(16, soon())
    lay(arena, [(Hostile.ANSWER, 1), (Hostile.HANG,)])
    out = start(link.series, arena, COMMAND, 2, 60.0, soon())
    wait_until_hung(link, 1)
    link.close()
    error = out.exception()
    assert isinstance(error, LinkDead)
    assert not error.culprit
    assert helper.ended()


def test_who_is_let_go_returns_from_its_call_and_begins_no_other_of_its_series(modules: Path) -> None:
    link = open_process(hostile(modules), {}, soon())
    helper = Process(command(link, Hostile.PID))
    arena = link.arena(4096, soon())
    marks = arena.there + 1024
    lay(arena, [(Hostile.LAST, marks, 50), (Hostile.FILL, marks + 1, 1, 2)])
    out = start(link.series, arena, COMMAND, 2, 60.0, soon())
    wait_until_hung(link, 1)
    link.close(at_once=False)
    assert helper.ended()
    assert isinstance(out.exception(), LinkDead)
    assert arena.buffer[1024:1026] == b"\1\0"
    helper.close()


def test_a_fork_in_the_middle_of_a_series(link: Link) -> None:
    arena = link.arena(16, soon())
    lay(arena, [(Hostile.ANSWER, 1), (Hostile.GATE, 2), (Hostile.ANSWER, 3)])
    out = start(link.series, arena, COMMAND, 3, 60.0, soon())
    child = os.fork()
    if child == 0:
        sound = not link.alive
        link.close()
        os._exit(not sound)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert command(link, Hostile.GATE, 2) == 0
    assert out.result() == 3
    assert results(arena, 3) == [1, 0, 3]


def test_a_module_that_scribbles_over_its_series(link: Link) -> None:
    with leased(link) as arena:
        lay(arena, [(Hostile.ANSWER, 5), (Hostile.SCRIBBLE, arena.there, 1), (Hostile.ANSWER, 6)])
        assert link.series(arena, COMMAND, 3, 60.0, soon()) == 3
        assert results(arena, 3) == [5, 7, 6]
        assert invoke(link, arena, COMMAND, Hostile.ANSWER, 3) == 3


# --- The helper as it finds itself ---


def test_signals_terminal_limits_and_files_of_the_helper(link: Link) -> None:
    assert command(link, Hostile.INSPECT) == 0


def test_the_helper_has_its_six_descriptors_only(link: Link) -> None:
    assert command(link, Hostile.DESCRIPTORS) == 0b111111


def test_the_helper_s_environment(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(link: Link, name: bytes) -> bytes | None:
        with leased(link) as arena:
            ffi.memmove(arena.here, name + b"\0", len(name) + 1)
            length = invoke(link, arena, COMMAND, Hostile.GETENV, arena.there, arena.there + 64)
            return None if length == (1 << 64) - 1 else bytes(ffi.buffer(arena.here + 64, length))

    monkeypatch.setenv("PYHA_TEST_OWN", "the application's")
    monkeypatch.setenv("PYHA_TEST", "the application's")
    monkeypatch.setenv("PYHA_TEST_LONGER", "kept")
    monkeypatch.delenv("PYHA_TEST_NONE", raising=False)
    link = open_process(hostile(modules), {"PYHA_TEST": "the member's", "PYHA_TEST_NEW": "a=b"}, soon())
    assert seen(link, b"PYHA_TEST_OWN") == b"the application's"
    assert seen(link, b"PYHA_TEST") == b"the member's"
    assert seen(link, b"PYHA_TEST_LONGER") == b"kept"
    assert seen(link, b"PYHA_TEST_NEW") == b"a=b"
    assert seen(link, b"PYHA_TEST_NONE") is None
    assert os.environ["PYHA_TEST"] == "the application's"
    link.close()


def test_what_an_administrator_sees(link: Link, modules: Path) -> None:
    arguments = Path(f"/proc/{command(link, Hostile.PID)}/cmdline").read_bytes().split(b"\0")
    assert arguments[:3] == [b"pyha-host", hostile(modules).encode(), b"hostile"]


def test_shared_memory_is_locked_by_the_helper_and_in_no_core_or_child_of_the_application(link: Link) -> None:
    with leased(link) as arena:
        pid = invoke(link, arena, COMMAND, Hostile.PID)
        here = int(ffi.cast("uintptr_t", arena.here))
        assert {"dc", "dd"} <= flags(os.getpid(), here)
        if os.geteuid() == 0:  # the helper is not dumpable: its mappings are root's to read
            assert "lo" in flags(pid, arena.there)


def flags(pid: int, address: int) -> set[str]:
    """VmFlags of the mapping at an address (proc(5): lo locked, dc not in a child, dd in no dump)."""
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        span = line.split()[0].split("-")
        if len(span) == 2 and not line.startswith("VmFlags"):
            inside = int(span[0], 16) <= address < int(span[1], 16)
        elif inside and line.startswith("VmFlags"):
            return set(line.split()[1:])
    return set()


# --- The end of a helper ---


@pytest.mark.parametrize("death", [death for death in Death if death is not Death.OTHER_THREAD])
def test_a_crash_names_the_call_it_came_from_and_no_other(link: Link, helper: Process, death: Death) -> None:
    innocent = [start(command, link, Hostile.HANG) for _ in range(5)]
    with pytest.raises(LinkDead) as mine:
        command(link, Hostile.CRASH, 5, death)
    assert mine.value.culprit == (death is not Death.KILL)
    for future in innocent:
        error = future.exception()
        assert isinstance(error, LinkDead)
        assert not error.culprit
    assert helper.ended()
    assert not link.alive


def test_a_crash_in_a_thread_of_the_module_names_no_call(link: Link) -> None:
    with pytest.raises(LinkDead) as death:
        command(link, Hostile.CRASH, 0, Death.OTHER_THREAD)
    assert not death.value.culprit


def test_a_helper_killed_while_calls_are_out_and_waiting(link: Link, helper: Process) -> None:
    out = [start(command, link, Hostile.HANG) for _ in range(7)]
    wait_until_hung(link, 7)
    held = link.arena(16, soon())
    waiting = [start(link.arena, 16, soon()) for _ in range(30)]
    os.kill(helper.pid, signal.SIGKILL)
    assert all(isinstance(future.exception(), LinkDead) for future in out + waiting)
    assert not link.alive
    with pytest.raises(LinkDead):
        link.invoke(held, COMMAND, soon())


def test_an_idle_helper_that_is_killed_is_noticed(link: Link, helper: Process) -> None:
    assert link.alive
    os.kill(helper.pid, signal.SIGKILL)
    assert helper.ended()
    assert not link.alive
    with pytest.raises(LinkDead):
        command(link, Hostile.ANSWER, 0)


def test_a_dead_helper_is_noticed_though_a_child_of_the_module_holds_its_socket(link: Link, helper: Process) -> None:
    child = Process(command(link, Hostile.CHILD))
    out = start(command, link, Hostile.HANG)
    wait_until_hung(link, 1)
    os.kill(helper.pid, signal.SIGKILL)
    assert isinstance(out.exception(), LinkDead)
    os.kill(child.pid, signal.SIGKILL)
    child.close()


def test_a_stopped_helper_is_late_and_close_ends_it(link: Link, helper: Process) -> None:
    helper.stop()
    for _ in range(400):  # more than the socket's queue takes
        with pytest.raises(LinkBusy):
            link.arena(MIB, time.monotonic() + 0.001)
    with pytest.raises(LinkLate) as late:
        link.arena(MIB, time.monotonic() + 0.6)
    assert not isinstance(late.value, LinkBusy), "it had time enough"
    with leased(link) as arena, pytest.raises(LinkLate):
        invoke(link, arena, COMMAND, Hostile.ANSWER, 0, deadline=time.monotonic() + 0.05)
    link.close()
    assert helper.ended()


def test_a_late_call_keeps_its_memory_and_its_place(link: Link) -> None:
    arena = link.arena(16, soon())
    with pytest.raises(LinkLate):
        invoke(link, arena, COMMAND, Hostile.HANG, deadline=time.monotonic() + 0.05)
    link.release(arena, 16)
    others = [link.arena(16, soon()) for _ in range(7)]
    assert all(other.there != arena.there for other in others)
    with pytest.raises(LinkLate):
        link.arena(16, time.monotonic() + 0.05)


def test_a_deadline_that_has_passed_calls_nothing(link: Link) -> None:
    with pytest.raises(LinkLate):
        command(link, Hostile.GATE, 1, deadline=time.monotonic() - 1)
    with pytest.raises(LinkLate):  # a second one to enter would open the gate
        command(link, Hostile.GATE, 2, deadline=time.monotonic() + 0.1)


def test_close_ends_calls_in_flight(link: Link, helper: Process) -> None:
    out = [start(command, link, Hostile.HANG) for _ in range(5)]
    wait_until_hung(link, 5)
    link.close()
    for future in out:
        error = future.exception()
        assert isinstance(error, LinkDead)
        assert not error.culprit
    assert helper.ended()


@pytest.mark.parametrize("way", ["close", "dismiss"])
def test_who_is_let_go_returns_from_its_call(modules: Path, way: str) -> None:
    link = open_process(hostile(modules), {}, soon())
    helper = Process(command(link, Hostile.PID))
    arena = link.arena(16, soon())
    out = start(invoke, link, arena, COMMAND, Hostile.LAST, arena.there, 50)
    wait_until_hung(link, 1)
    if way == "dismiss":
        link.dismiss(time.monotonic())
    link.close(at_once=False)
    assert helper.ended()
    assert isinstance(out.exception(), LinkDead)
    assert arena.buffer[:1] == b"\1"
    helper.close()


def test_who_is_let_go_has_its_call_s_own_time_and_then_hangs(modules: Path) -> None:
    slow, hung = (open_process(hostile(modules), {}, soon()) for _ in range(2))
    helpers = [Process(command(link, Hostile.PID)) for link in (slow, hung)]
    arena = slow.arena(16, soon())
    out = start(invoke, slow, arena, COMMAND, Hostile.LAST, arena.there, 3500)  # ms: more than a call has at least
    wait_until_hung(slow, 1)
    with leased(hung) as other, pytest.raises(LinkLate):
        invoke(hung, other, COMMAND, Hostile.HANG, deadline=time.monotonic() + 0.05)
    for link in (slow, hung):
        link.close(at_once=False)
    assert all(helper.ended() for helper in helpers)
    assert isinstance(out.exception(), LinkDead)
    assert arena.buffer[:1] == b"\1"
    for helper in helpers:
        helper.close()


def test_a_stopped_helper_that_is_dismissed_ends(link: Link, helper: Process) -> None:
    helper.stop()
    link.dismiss(soon())
    assert helper.ended(0)


def test_a_helper_outlives_what_a_service_manager_sends(link: Link, helper: Process) -> None:
    os.kill(helper.pid, signal.SIGTERM)
    assert command(link, Hostile.ANSWER, 7) == 7


def test_a_link_that_nobody_holds_ends_its_helper(modules: Path) -> None:
    link = open_process(hostile(modules), {}, soon())
    helper = Process(command(link, Hostile.PID))
    before = len(os.listdir("/proc/self/fd"))
    del link
    gc.collect()
    assert helper.ended()
    assert len(os.listdir("/proc/self/fd")) == before - 3
    helper.close()


def test_a_forked_child_may_let_go_of_the_link(link: Link) -> None:
    arena = link.arena(MIB, soon())
    child = os.fork()
    if child == 0:
        sound = not link.alive
        link.close()
        del arena, link
        gc.collect()
        os._exit(not sound)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert invoke(link, arena, COMMAND, Hostile.ANSWER, 6) == 6


def test_a_module_that_closes_the_helper_s_descriptors(link: Link, helper: Process) -> None:
    assert command(link, Hostile.DEAFEN) == 0
    assert command(link, Hostile.ANSWER, 4) == 4
    link.close()
    assert helper.ended()


# --- Shared memory in hostile hands ---


def test_shared_memory_cannot_be_truncated(link: Link) -> None:
    with leased(link) as arena, leased(link, MIB) as large:
        tried = invoke(link, arena, COMMAND, Hostile.TRUNCATE)
        if tried == 1000:
            pytest.skip("only root can reopen a mapping to try it")
        assert tried == 1  # EPERM
        large.here[MIB - 1] = arena.here[0] = 1  # else a SIGBUS


def test_a_module_that_scribbles_over_the_call_itself(link: Link) -> None:
    with leased(link) as arena:
        assert invoke(link, arena, COMMAND, Hostile.SCRIBBLE, arena.there, 1) == 7
        assert invoke(link, arena, COMMAND, Hostile.ANSWER, 3) == 3


def test_a_scribbled_call_that_hangs_ends_at_its_deadline(link: Link) -> None:
    with leased(link) as arena:
        began = time.thread_time()
        with pytest.raises(LinkLate):
            invoke(link, arena, COMMAND, Hostile.SCRIBBLE, arena.there, 0, deadline=time.monotonic() + 0.5)
        assert time.thread_time() - began < 0.25, "waited in a busy loop"
        assert arena.capacity == 65536 - 256


# --- Starting ---


@pytest.mark.parametrize(
    ("variant", "sentence"),
    [
        (1, "answered 0x00000005"),
        (2, "answered 0x00000000"),
        (8, "ended while loading it"),
    ],
)
def test_a_module_that_is_no_use(modules: Path, variant: int, sentence: str) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(LinkFailed, match=sentence):
        open_process(hostile(modules, variant), {}, soon())
    assert os.listdir("/proc/self/fd") == before


def test_a_module_that_never_finishes_loading(modules: Path) -> None:
    with pytest.raises(LinkFailed, match="did not load it in time"):
        open_process(hostile(modules, 7), {}, time.monotonic() + 0.2)


def test_a_helper_program_that_is_not_there(tmp_path: Path, modules: Path) -> None:
    program, reason = str(tmp_path / "nothing").encode(), ffi.new("char[]", 512)
    environment = ffi.new("char *[]", [ffi.NULL])
    handle = lib.pyha_link_start(program, hostile(modules).encode(), b"", environment, soon(), reason, 512)
    assert not handle
    assert ffi.string(reason) == b"cannot start the helper program " + program + b": No such file or directory"


def test_no_descriptors_left_to_start_with(modules: Path) -> None:
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hostile(modules)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
    try:
        with pytest.raises(LinkFailed, match="Too many open files"):
            open_process(hostile(modules), {}, soon())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


def test_a_helper_program_of_another_version(tmp_path: Path, modules: Path) -> None:
    """The control socket's other end says something else: here, a shell says hello."""
    program = tmp_path / "pyha-host"
    program.write_text("#!/bin/sh\nprintf hello >&3\n")
    program.chmod(0o755)
    reason, environment = ffi.new("char[]", 512), ffi.new("char *[]", [ffi.NULL])
    handle = lib.pyha_link_start(bytes(program), hostile(modules).encode(), b"", environment, soon(), reason, 512)
    assert not handle
    assert b"not of this version" in ffi.string(reason)


def test_many_links_from_many_threads(modules: Path) -> None:
    path = hostile(modules)
    links = [future.result() for future in [start(open_process, path, {}, soon()) for _ in range(8)]]
    assert len({command(link, Hostile.PID) for link in links}) == 8
    for link in links:
        link.close()


# --- Function lists are not taken on trust ---


@pytest.mark.parametrize(
    ("variant", "newer"),
    [(0, False), (4, False), (5, True), (6, False), (9, False)],
    ids=["2.40", "claims 3.0", "3.0", "other name", "other version"],
)
@pytest.mark.parametrize("kind", ["process", "none"])
def test_the_functions_of_3_0_come_from_an_interface_only(modules: Path, kind: str, variant: int, newer: bool) -> None:
    path = hostile(modules, variant)
    link = open_process(path, {}, soon()) if kind == "process" else open_local(path)
    assert all(link.offers(index) for index in range(COUNT_2_40))
    assert {link.offers(index) for index in range(COUNT_2_40, len(FUNCTIONS))} == {newer}
    with leased(link) as arena:
        expected = 5 if newer else CKR_FUNCTION_NOT_SUPPORTED
        assert invoke(link, arena, len(FUNCTIONS) - 1, Hostile.ANSWER, 5) == expected
    link.close()


@pytest.mark.parametrize("kind", ["process", "none"])
def test_pointers_to_nothing_are_not_offered(modules: Path, kind: str) -> None:
    path = hostile(modules, 3)
    link = open_process(path, {}, soon()) if kind == "process" else open_local(path)
    assert [index for index in range(COUNT_2_40) if not link.offers(index)] == [1, 2]
    with leased(link) as arena:
        assert invoke(link, arena, 1) == invoke(link, arena, 2) == CKR_FUNCTION_NOT_SUPPORTED
    link.close()


def test_a_module_inside_the_application_that_hands_out_our_own_functions() -> None:
    own = ffi.string(lib.pyha_own_path()).decode()
    with pytest.raises(LinkFailed, match="this module's own functions"):
        open_local(own)


def test_python_runs_while_a_call_is_out(link: Link) -> None:
    out = start(command, link, Hostile.HANG)
    wait_until_hung(link, 1)
    done = threading.Event()
    start(done.set)
    assert done.wait(30)
    link.close()
    assert isinstance(out.exception(), LinkDead)


def test_c_and_the_table_agree_on_the_functions() -> None:
    assert len(FUNCTIONS) == lib.PYHA_FUNCTIONS


def test_helpers_inherit_the_environment_that_was_kept(modules: Path) -> None:
    """A helper that a thread of ours starts later does not read what the application may be changing."""
    script = f"""
import os, time
from pyha.abi.link import keep_environment, open_process
os.environ["PYHA_TEST"] = "then"
keep_environment()
os.environ["PYHA_TEST"] = "now"
link = open_process({hostile(modules)!r}, {{}}, time.monotonic() + 30, title="kept")
for entry in os.listdir("/proc"):
    try:
        words = open(f"/proc/{{entry}}/cmdline", "rb").read().split(b"\\0")
        parts = open(f"/proc/{{entry}}/environ", "rb").read().split(b"\\0")
    except OSError:
        continue
    if b"kept" in words and words[0].endswith(b"pyha-host"):
        print([part for part in parts if part.startswith(b"PYHA_TEST")])
link.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[b'PYHA_TEST=then']\n", done.stderr
