"""Who may make objects and who is alone: two of them on one file are as two processes, because the locks belong to the
open file description."""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyha.ha.steps import Plan
from pyha.runtime import log
from pyha.runtime.exclusion import Exclusion
from pyha.runtime.gate import GateTimeout
from pyha.runtime.resync import Outcome
from pyha.runtime.turns import _undisturbed

GROUP = bytes(16)
PAST = 0.0
FAR = time.monotonic() + 3600


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "pyha.toml"
    path.write_text("")
    return path


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """The lines of the log."""
    path = tmp_path / "log"
    log.direct(f"file:{path}")
    yield lambda: path.read_text().splitlines() if path.exists() else []
    log.direct("stderr")


def on(path: Path, group: bytes = GROUP, clock: Callable[[], float] = time.monotonic) -> Exclusion:
    """One as another process has it."""
    made = Exclusion(group, clock)
    made.beside(str(path))
    return made


class Ticking:
    """A clock that goes on by a second at every look."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return float(self.looks)


def in_child(work: Callable[[], bool]) -> bool:
    """What `work` says in a forked child."""
    child = os.fork()
    if child == 0:
        os._exit(0 if work() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def can_be_alone(path: Path) -> bool:
    try:
        with on(path).alone(PAST):
            return True
    except GateTimeout:
        return False


def test_many_make_objects_and_nobody_is_alone_meanwhile(conf: Path, logged: Callable[[], list[str]]) -> None:
    with on(conf).shared(PAST), on(conf).shared(PAST):
        assert not can_be_alone(conf)
        assert in_child(lambda: not can_be_alone(conf))
    assert can_be_alone(conf)
    assert in_child(lambda: can_be_alone(conf))
    assert logged() == []


def test_two_are_not_alone_together(conf: Path) -> None:
    with on(conf).alone(PAST):
        assert not can_be_alone(conf)
    assert can_be_alone(conf)


def test_a_resync_keeps_its_place_between_its_turns(conf: Path, logged: Callable[[], list[str]]) -> None:
    """Two that let each other in between their turns would both begin again from the start, and so for ever."""
    here, there = on(conf), on(conf)
    group: Any = SimpleNamespace(changes=here, clock=Ticking(), settings=SimpleNamespace(deadline=1.0))
    group.deadline = lambda: FAR
    turns: list[int] = []
    waiter = on(conf)._opened()
    assert waiter is not None

    def work(its: Any) -> Any:
        for _ in range(3):
            waiter.hold(there._waiting)
            with pytest.raises(GateTimeout), there.resync(PAST):
                pass
            with pytest.raises(GateTimeout), there.alone(PAST):
                pass
            assert its.goes_on(1)  # the clock goes on by more than a turn
            turns.append(its.taken())
        return SimpleNamespace(finished=True)

    _undisturbed(group, work, None, lambda outcome: None)
    assert turns == [1, 2, 3]
    waiter.close()
    with there.resync(FAR), there.shared(FAR), there.shared(FAR):
        pass
    with here.resync(FAR), there.shared(FAR):  # what is made and changed does not wait for it
        assert not logged()


def test_a_resync_that_nobody_waits_for_lets_nobody_in(conf: Path) -> None:
    """Who might have come in makes it read thousands of objects again."""
    here, there = on(conf), on(conf)
    group: Any = SimpleNamespace(changes=here, clock=Ticking(), settings=SimpleNamespace(deadline=1.0))
    group.deadline = lambda: FAR
    made = threading.Event()

    def make() -> None:
        with there.shared(FAR):
            made.set()

    def work(its: Any) -> Any:
        assert its.goes_on(1)
        assert its.goes_on(1)
        assert its.taken() == 0
        maker = threading.Thread(target=make)
        maker.start()
        while not its.taken():
            assert its.goes_on(1)
        maker.join()  # it was let in, though this goes on
        assert made.is_set()
        assert its.goes_on(1)
        assert its.taken() == 1
        return SimpleNamespace(finished=True)

    _undisturbed(group, work, None, lambda outcome: None)


@pytest.mark.parametrize("wants", ["shared", "alone"])
@pytest.mark.parametrize("same", [False, True])
def test_who_is_alone_sees_that_somebody_waits(conf: Path, wants: str, same: bool) -> None:
    """Of its own process or of another, as long as he waits."""
    it = on(conf)
    inside, leave = threading.Event(), threading.Event()

    def come() -> None:
        with getattr(it if same else on(conf), wants)(FAR):
            inside.set()
            leave.wait()

    waiting = threading.Thread(target=come)
    with it.alone(PAST) as here:
        assert not here.awaited()
        waiting.start()
        while not here.awaited():
            time.sleep(0.001)  # a lock that another takes gives no event
    inside.wait()
    probe = on(conf)._opened()
    assert probe is not None
    assert not probe.is_held(it._waiting)  # he is in, and waits for nothing any more
    probe.close()
    leave.set()
    waiting.join()
    with it.alone(FAR) as here:
        assert not here.awaited()


def test_who_cannot_lock_does_not_know_that_nobody_waits(tmp_path: Path) -> None:
    with on(tmp_path / "none").alone(PAST) as here:
        assert here.awaited()


def test_another_group_of_the_same_file_is_not_concerned(conf: Path, logged: Callable[[], list[str]]) -> None:
    with on(conf).alone(PAST), on(conf, b"another group's").shared(PAST), on(conf, b"a third's").alone(PAST):
        pass
    assert logged() == []


def test_who_waits_to_be_alone_goes_before_those_who_come_later(conf: Path, logged: Callable[[], list[str]]) -> None:
    order = []

    def alone() -> None:
        with on(conf).alone(FAR):
            order.append("alone")

    def later() -> None:
        with on(conf).shared(FAR):
            order.append("later")

    first, second = threading.Thread(target=alone), threading.Thread(target=later)
    probe = on(conf)._opened()
    assert probe is not None
    with on(conf).shared(PAST):
        first.start()
        while not probe.is_held(on(conf)._loner):
            time.sleep(0.001)  # a lock that another takes gives no event
        second.start()
        assert order == []
    first.join()
    second.join()
    probe.close()
    assert order == ["alone", "later"]
    assert logged() == []


def test_who_is_killed_holds_nothing(conf: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with on(conf).alone(PAST):
            os.write(writing, b"x")
            time.sleep(3600)
    assert os.read(reading, 1) == b"x"
    assert not can_be_alone(conf)
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert can_be_alone(conf)
    os.close(reading)
    os.close(writing)


def test_a_child_keeps_nothing_that_its_parent_held(conf: Path) -> None:
    def has_it() -> bool:
        return str(conf) in {os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")}

    with on(conf).shared(PAST):
        assert has_it()
        assert in_child(lambda: not has_it())
        # A child that is started in another way has a copy, and the lock ends with the parent's all the same.
        copies = [os.dup(int(each)) for each in os.listdir("/proc/self/fd") if _leads_to(each, conf)]
    assert copies
    assert can_be_alone(conf)
    for copy in copies:
        os.close(copy)


def _leads_to(descriptor: str, path: Path) -> bool:
    return os.path.realpath(f"/proc/self/fd/{descriptor}") == str(path)


def test_an_application_that_closes_all_descriptors(conf: Path, tmp_path: Path) -> None:
    """What it opens afterwards under our number is its own: neither locked nor closed by us."""
    own = tmp_path / "own"
    own.write_text("")

    def work() -> bool:
        os.close(0)  # ours is not to get the number of somebody's standard input
        with on(conf).shared(PAST):
            before = [int(each) for each in os.listdir("/proc/self/fd") if _leads_to(each, conf)]
            os.closerange(0, 1 << 12)
            theirs = [os.open(own, os.O_RDWR) for _ in range(max(before) + 1)]
        return min(before) > 2 and all(os.path.sameopenfile(theirs[0], each) for each in theirs)

    assert in_child(work)
    assert can_be_alone(conf)


def test_a_file_that_was_replaced(conf: Path) -> None:
    with on(conf).shared(PAST):
        conf.with_suffix(".new").write_text("")
        conf.with_suffix(".new").rename(conf)
        # Who was inside is not seen any more: the window that docs name. Those that come now see each other.
        with on(conf).alone(PAST):
            assert not can_be_alone(conf)


def test_without_a_file_that_can_be_locked_work_goes_on(tmp_path: Path, logged: Callable[[], list[str]]) -> None:
    it = on(tmp_path / "none")
    for _ in range(2):
        with it.shared(PAST):
            pass
        with it.alone(PAST):
            pass
    assert [line.split("warning: ")[1] for line in logged()] == [
        "the configuration cannot be locked (No such file or directory): other processes are not excluded"
    ]


def test_who_holds_the_lock_for_ever_holds_up_one_creation_once(conf: Path, logged: Callable[[], list[str]]) -> None:
    clock = Ticking()
    it = on(conf, clock=clock)
    with on(conf).alone(PAST):
        with it.shared(4.0):
            assert clock.looks == 4
        waited = clock.looks
        with it.shared(1e9):
            assert clock.looks == waited + 1  # it did not wait again
    assert len(logged()) == 1
    assert "somebody keeps the lock of a resync" in logged()[0]
    with it.shared(PAST):
        pass
    # The lock was seen free: the next one is waited for again.
    with on(conf).alone(PAST), it.shared(clock.looks + 3.0):
        pass
    assert clock.looks > 4


def test_who_goes_on_is_waited_for_all_the_same(conf: Path) -> None:
    with on(conf).alone(PAST), on(conf).shared(PAST):
        inside = on(conf)._opened()
        assert inside is not None
        assert inside.is_held(on(conf)._makers)
        inside.close()


def test_another_process_that_goes_on_is_noticed(conf: Path) -> None:
    it, other = on(conf), on(conf)
    with it.alone(PAST) as here:
        assert not here.look()
        with other.shared(PAST):
            assert here.look()
        assert here.look()  # what it has done may have been seen half
    with it.alone(PAST) as here:
        assert not here.look()


def test_who_waits_is_not_taken_for_one_that_goes_on(conf: Path) -> None:
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return time.monotonic()

    def wait() -> None:
        with on(conf, clock=clock).shared(FAR):
            pass

    with on(conf).alone(PAST) as here:
        waiting = threading.Thread(target=wait)
        waiting.start()
        while looks < 5:  # each time it holds its own lock for a moment
            assert not here.look()
    waiting.join()


def test_a_thread_that_goes_on_is_waited_for_by_the_next_who_is_alone(conf: Path) -> None:
    it = on(conf)
    with ExitStack() as stack:
        with it.alone(PAST):
            stack.enter_context(it.shared(PAST))
        assert not can_be_alone(conf)
        with pytest.raises(GateTimeout), it.alone(PAST):
            pass
    assert can_be_alone(conf)


def test_a_resync_that_is_disturbed_again_and_again_comes_to_an_end(conf: Path) -> None:
    """It is begun anew each time, but not for ever: the next attempt goes on."""
    here = on(conf)
    group: Any = SimpleNamespace(changes=here, clock=lambda: 0.0, settings=SimpleNamespace(deadline=1.0))
    group.deadline = lambda: FAR
    begun: list[int] = []

    def work(its: Any) -> Outcome:
        begun.append(1)
        assert its.goes_on(0)
        with on(conf).shared(PAST):
            assert not its.goes_on(0)
        return Outcome((), Plan(), 1, (), True)

    def then(outcome: Outcome) -> None:
        raise AssertionError

    outcome = _undisturbed(group, work, None, then)
    assert not outcome.finished
    assert outcome.done == len(begun) > 1


def test_a_thread_that_goes_on_is_noticed(conf: Path, logged: Callable[[], list[str]]) -> None:
    it = on(conf)
    with it.alone(PAST) as here:
        assert not here.disturbed
        with it.shared(PAST):
            pass
        assert here.disturbed
    assert "a resync of this process lasts long" in logged()[0]
    with it.alone(PAST) as here:
        assert not here.disturbed


def test_who_goes_on_and_is_done_between_two_looks_is_seen(conf: Path) -> None:
    now = [0.0]
    there, done = on(conf, clock=lambda: now[0]), threading.Event()

    def go_by() -> threading.Thread:
        def work() -> None:
            with there.shared(now[0] + 10.0):
                done.set()

        done.clear()
        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def until_done() -> None:
        assert done.wait(30.0)
        while probe.is_held(there._makers):
            time.sleep(0.001)  # a lock that another drops gives no event

    opened = on(conf)._opened()
    assert opened is not None
    probe = opened
    with on(conf).alone(PAST) as here:
        maker = go_by()
        while not probe.is_held(there._waiting):
            assert not here.look()
        now[0] = 10.0  # its time is over
        until_done()
        assert here.look()
        maker.join()
    with on(conf).alone(PAST) as here:
        # Who does not look is not waited for without end, nor again.
        maker = go_by()
        until_done()
        now[0] = 30.0
        maker.join()
        maker = go_by()
        maker.join()
        assert not here.look()
    probe.close()


def test_two_changes_of_one_kind_of_objects_wait_for_each_other(conf: Path, logged: Callable[[], list[str]]) -> None:
    def waits(kind: bytes, alone: bool) -> bool:
        clock = Ticking()
        with on(conf, clock=clock).steady(kind, alone, 3.0):
            return clock.looks > 0

    with on(conf).steady(b"key", True, PAST):
        assert waits(b"key", True)
        assert waits(b"key", False)
        assert not waits(b"certificate", True)
        with on(conf, b"another group's").steady(b"key", True, PAST):
            pass
    assert len(logged()) == 2  # those two went on when their time was over
    with on(conf).steady(b"key", False, PAST):
        assert waits(b"key", True)
        assert not waits(b"key", False)
    assert not waits(b"key", True)


def test_without_a_configuration_it_is_for_threads() -> None:
    it = Exclusion(GROUP)
    with it.shared(PAST), pytest.raises(GateTimeout), it.alone(PAST):
        pass
    with it.alone(PAST):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="takes a process of another user")
def test_another_user_who_may_only_read() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        conf = Path(directory) / "pyha.toml"
        conf.write_text("")
        conf.chmod(0o644)

        def work() -> bool:
            os.setgid(65534)
            os.setuid(65534)
            return can_be_alone(conf)

        assert in_child(work)
        with on(conf).shared(PAST):
            assert in_child(lambda: not work())
