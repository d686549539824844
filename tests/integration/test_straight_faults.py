"""Every function that goes straight, with every fault on its way: the application gets what the general way gives it.

The same calls are made by one application the express way, the straight way and the general way, over two members that
obey one plan. Compared are the answers, every byte around the results, the log, and the books of the group afterwards.
"""

import ctypes
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import pytest

from pyha.cli import chaos_plan
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import BY_NAME, FUNCTIONS
from pyha.cryptoki.straight import PARTS, Part
from pyha.ha.settings import RecoveryMode, RecoverySettings
from pyha.runtime.member import Connection, MemberLost
from tests.application import _mechanism
from tests.chaos import LIMIT, Plan
from tests.client import Client, Word, aes_key
from tests.integration.conftest import TestGroup

OK = ck.CKR_OK
LABEL = f"straight-{os.getpid()}"
GUARD = 0xA5
_AT, _MEMORY = 512, 12288  # where a result is put, in how much memory
TEXT = b"twenty bytes of text"
HOW: dict[str, Any] = {
    "Sign": ck.CKM_AES_CMAC,
    "Verify": ck.CKM_AES_CMAC,
    "Encrypt": (ck.CKM_AES_CBC_PAD, bytes(16)),
    "Decrypt": (ck.CKM_AES_CBC_PAD, bytes(16)),
    "Digest": ck.CKM_SHA256,
}
WAYS = ("express", "straight", "general")
FUNCTIONS_HERE = ["C_GenerateRandom", *(f"C_{name}{end}" for name in HOW for end in ("Init", ""))]
ALIKE = ("C_VerifyInit", "C_EncryptInit", "C_Decrypt", "C_DigestInit")  # to others; each new run takes its time

ANSWERS = (
    "CKR_DATA_INVALID",
    "CKR_DEVICE_ERROR",
    "CKR_SESSION_HANDLE_INVALID",
    "CKR_USER_NOT_LOGGED_IN",
    "CKR_KEY_HANDLE_INVALID",
    "CKR_OPERATION_ACTIVE",
    "CKR_OPERATION_NOT_INITIALIZED",
    "CKR_BUFFER_TOO_SMALL",
)
HARMLESS = (
    *(f"once -> answer {rv}" for rv in ANSWERS),
    "once -> answer-after CKR_GENERAL_ERROR",
    "once -> delay 5",
    "once -> lose-sessions",
    "once -> lose-login",
)
"""What no member is lost by."""
OF_BYTES = ("once -> corrupt",)
OF_LENGTHS = ("once -> length 9000", "once -> length -1", "once -> length 10000000000")
LETHAL = ("once -> crash", "once -> answer CKR_DEVICE_REMOVED", "-> crash")


class Watched(Client):
    """A client whose module's ways can be shut, and looked at: it runs in the client's own interpreter."""

    def go(self, way: str) -> None:
        """From now on calls go this way of `WAYS`, or one of those after it where they cannot."""
        lib = sys.modules["_pyha"].lib
        lib.pyha_express_allow(way == "express")
        lib.pyha_straight_allow(way != "general")

    def by_express(self, slot: int) -> int:
        """How many operations C has completed."""
        group = self._entry().provider._groups[slot]
        return sum(group.express.counts(index)[2] for index in range(len(group.loads)))

    def served(self, slot: int) -> list[int]:
        """Operations that each member has completed, by whatever way."""
        return list(self._entry().provider._groups[slot].status.completed())

    def compare_nothing(self) -> None:
        """The monitor compares no members: a comparison that meets a fault has a line of the log of its own, or not."""
        cast(Any, sys.modules["pyha.runtime.monitor"]).compare_if_asked = lambda group: None

    def count(self) -> None:
        """Notes from now on which calls a member answered straight."""
        self.gone: Counter[str] = Counter()
        ways = self._entry().provider.ways
        for index, way in enumerate(ways):
            if way is not None:
                ways[index] = self._counting(FUNCTIONS[index].name, way)

    def counted(self) -> Counter[str]:
        """Which did, and how often."""
        return self.gone

    def _counting(self, name: str, way: Callable[..., int | None]) -> Callable[..., int | None]:
        def counting(*arguments: Any) -> int | None:
            rv = way(*arguments)
            self.gone[name] += rv is not None
            return rv

        return counting

    def hold_losses(self) -> None:
        """Whoever loses a member on one of those ways from now on is held before anybody hears of it."""
        self.held, self.let_go = Event(), Event()
        straight, express = Connection.straight, Connection.lost_express

        def held_straight(*arguments: Any) -> int:
            try:
                return straight(*arguments)
            except MemberLost:
                self._hold()
                raise

        def held_express(*arguments: Any) -> MemberLost:
            found = express(*arguments)
            self._hold()
            return found

        cast(Any, Connection).straight, cast(Any, Connection).lost_express = held_straight, held_express

    def _hold(self) -> None:
        self.held.set()
        self.let_go.wait(LIMIT)

    def loss_is_held(self) -> bool:
        """Waits for that."""
        return self.held.wait(LIMIT)

    def let_losses_go(self) -> None:
        """And from now on there is no such hold."""
        self.let_go.set()

    def books(self, slot: int) -> tuple[list[int], list[float], int, dict[int, int], int]:
        """Calls in flight and load of each member, operations served, errors and failovers of all."""
        group = self._entry().provider._groups[slot]
        errors: Counter[int] = Counter()
        for each in group.status.errors:
            errors.update(each)
        theirs = [group.express.counts(index) for index in range(len(group.loads))]
        in_flight = [ours + each[1] for ours, each in zip(group.status.in_flight, theirs, strict=True)]
        loads = [ours + each[0] for ours, each in zip(group.loads, theirs, strict=True)]
        return in_flight, loads, sum(group.status.completed()), dict(errors), group.status.failovers

    def members_in(self, slot: int) -> int:
        """How many members serve."""
        return len(self._entry().provider._groups[slot].value.serving())

    def places(self, session: int) -> tuple[bool, int]:
        """Whether a session has a place on a member, and its open operations."""
        found = self._entry().provider._sessions[session]
        return found.place is not None, len(found.journals)

    @staticmethod
    def _entry() -> Any:
        return cast(Any, sys.modules["pyha.entry"])._module

    def guarded(
        self, name: str, session: int, data: bytes, room: int, in_place: bool = False
    ) -> tuple[int, int, bytes, bool]:
        """A call that gives bytes, into so much room: CK_RV, the length told, what stands in the room and behind it,
        and whether all else is as it was."""
        memory = (ctypes.c_ubyte * _MEMORY)(*[GUARD] * _MEMORY)
        at = ctypes.addressof(memory) + _AT
        source = ctypes.create_string_buffer(data, len(data))
        if in_place:
            ctypes.memmove(at, data, len(data))
        length = Word(room)
        given = (ctypes.c_void_p(at if in_place else ctypes.addressof(source)), len(data))
        rv = self.call(f"C_{name}", session, *given, ctypes.c_void_p(at), ctypes.byref(length))
        all_of_it = bytes(memory)
        around = all_of_it[:_AT] + all_of_it[_AT + max(room, len(data)) :]
        return rv, length.value, all_of_it[_AT : _AT + 2 * room], set(around) == {GUARD}


class _Manager(BaseManager):
    """Holds the process of a client."""


_Manager.register("Watched", Watched)


class Stage:
    """An application over two members that obey one plan."""

    def __init__(self, made: TestGroup, plan: Plan, app: Watched) -> None:
        self.made, self.plan, self.app = made, plan, app
        self.begin()
        self.key = aes_key(app, self.session)
        sealed = self.operation("Sign", TEXT), self.operation("Encrypt", TEXT)
        self.seal, self.cipher = (content[:length] for _, length, content, _ in sealed)
        self.end()

    def begin(self) -> None:
        self.app.finalize()  # after a test that failed
        assert self.app.initialize() == OK
        self.app.compare_nothing()
        self.app.count()
        self.slot = self.app.slot_of(LABEL)
        self.session = self.app.logged_in(self.slot)

    def end(self) -> None:
        assert self.app.finalize() == OK

    def warm(self, way: str) -> None:
        """A new run of the module: the key is found, every member has a session that is idle, and what has to have gone
        one way to go another has."""
        self.plan.set()
        self.begin()
        self.app.go(way)
        self.key = self.app.find(self.session, {ck.CKA_LABEL: b"aes"})[1][0]
        for name in HOW:
            for _ in range(4):
                assert self.whole(name)[-1][0] == OK
        for _ in range(4):
            assert self.app.random(self.session)[0] == OK

    def operation(self, name: str, data: bytes) -> tuple[int, int, bytes, bool]:
        assert self.app.start(name, self.session, HOW[name], self.key) == OK
        return self.app.guarded(name, self.session, data, 64)

    def whole(self, name: str) -> list[tuple[Any, ...]]:
        """An operation from its start to its end: what each call answered."""
        app, session = self.app, self.session
        key = None if name == "Digest" else self.key
        answers: list[tuple[Any, ...]] = [(app.start(name, session, HOW[name], key),)]
        if name == "Verify":
            return [*answers, (app.verify(session, TEXT, self.seal),)]
        data = self.cipher if name == "Decrypt" else TEXT
        if name != "Decrypt":  # how much room that needs no token says before it has decrypted
            answers.append(app.guarded(name, session, data, 4))
        answers.append(app.guarded(name, session, data, 64, in_place=name in ("Encrypt", "Decrypt")))
        return answers

    def meet(self, function: str, fault: str) -> list[Any]:
        """A fault at a function, and one more operation: what an application sees of it, and what is left."""
        self.plan.set(f"{function} {fault}")
        name = function.removeprefix("C_").removesuffix("Init")
        before = len(self.made.logged())
        seen: list[Any] = []
        for _ in range(2):
            if name == "GenerateRandom":
                rv, content = self.app.random(self.session)
                seen.append((rv, content == bytes(16)))
            else:
                seen += self.whole(name)
                seen.append(self.app.places(self.session))
        self.plan.set()
        in_flight, loads, *counts = self.app.books(self.slot)
        assert (in_flight, loads) == ([0, 0], [0.0, 0.0])
        return [*seen, counts, plain(self.made.logged()[before:])]


def plain(log: str) -> list[str]:
    """What was logged, without times, processes and the names of members, which a run begins with by chance."""
    lines = [line for line in log.splitlines() if "served" not in line]
    return [re.sub(rf"{LABEL}-\d|\d+", "#", line.partition(LABEL)[2]) for line in lines]


@contextmanager
def staged(group: Callable[..., TestGroup], directory: Path) -> Iterator[Stage]:
    # In the background, where there is an express way; but nobody is to return meanwhile.
    made = group(members=2, label=LABEL, recovery=RecoverySettings(RecoveryMode.BACKGROUND, attempts=0))
    plan = Plan(directory / "plan")
    for index in range(2):
        made.put_module(index, chaos_plan.chaos_module(), plan.environment)
    with _Manager(ctx=get_context("spawn")) as manager:
        yield Stage(made, plan, cast(Any, manager).Watched(made.module, dict(made.environment)))


@pytest.fixture(scope="module")
def stage(group_of_module: Callable[..., TestGroup], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(group_of_module, tmp_path_factory.mktemp("plans")) as it:
        yield it


def each_way(stage: Stage, work: Callable[[], Any]) -> list[Any]:
    """What comes of it the express way, the straight way and the general way, each in a new run of the module."""
    found = []
    for way in WAYS:
        stage.warm(way)
        found.append(work())
        stage.end()
    return found


def test_these_are_the_functions_that_go_straight() -> None:
    """A function that comes into the table, or goes, is to be looked at: what it does with each fault."""
    named = {function.name for function in FUNCTIONS if PARTS[function.index]}
    others = {"C_SignRecoverInit", "C_SignRecover", "C_VerifyRecoverInit", "C_VerifyRecover"}
    finals = {f"C_{name}Final" for name in HOW}
    assert named == {*FUNCTIONS_HERE, *finals, *others}
    # C takes the last argument for the result, and no other.
    assert all(part < Part.FILL for parts in PARTS for part in parts[:-1])


def test_what_goes_straight_is_what_goes_without(stage: Stage) -> None:
    def work() -> Any:
        before = stage.app.by_express(stage.slot)
        seen = [stage.whole(name) for name in HOW]
        seen.append([(stage.app.random(stage.session)[0],)])
        return seen, stage.app.counted(), stage.app.by_express(stage.slot) - before

    (express, _, more), (straight, went, none), (general, did_not, _) = each_way(stage, work)
    assert express == straight == general
    assert not did_not
    # Some of those that warm up find no session yet.
    assert all(went[function] >= 1 for function in FUNCTIONS_HERE), went
    assert none == 0
    assert more >= 3, "random bytes, and the operations that ask for no room first"


@pytest.mark.parametrize("function", FUNCTIONS_HERE)
def test_a_fault_that_costs_no_member(stage: Stage, function: str) -> None:
    last = PARTS[BY_NAME[function].index][-1]
    faults = [*HARMLESS, *(OF_BYTES if last >= Part.FILL else ()), *(OF_LENGTHS if last is Part.RESULT else ())]
    found = each_way(stage, lambda: [stage.meet(function, fault) for fault in faults])
    for fault, express, straight, general in zip(faults, *found, strict=True):
        assert straight == general, f"{function} {fault}"
        assert express == general, f"{function} {fault}"


@pytest.mark.parametrize("function", [name for name in FUNCTIONS_HERE if name not in ALIKE])
def test_a_fault_that_costs_a_member(stage: Stage, function: str) -> None:
    for fault in LETHAL:
        express, straight, general = each_way(stage, partial(stage.meet, function, fault))
        assert straight == general, f"{function} {fault}"
        assert express == general, f"{function} {fault}"


def test_a_part_is_not_forgotten(stage: Stage) -> None:
    """An operation that began straight goes on in parts, and on to another member."""
    answers = []
    for way in WAYS:
        stage.warm(way)
        app, session = stage.app, stage.session
        assert app.start("Encrypt", session, HOW["Encrypt"], stage.key) == OK
        parts = [app.in_place("EncryptUpdate", session, bytes(16))]
        stage.plan.set("C_EncryptUpdate once -> crash")
        parts.append(app.in_place("EncryptUpdate", session, bytes(range(16))))
        stage.plan.set("C_EncryptFinal once -> crash")
        parts.append(app.out("EncryptFinal", session)[::2])
        answers.append(parts)
        stage.end()
    assert answers[0] == answers[1] == answers[2]
    assert [rv for rv, _ in answers[0]] == [OK, OK, ck.CKR_DEVICE_ERROR]


@pytest.mark.parametrize("way", WAYS[:2])
def test_two_threads_in_one_session(stage: Stage, way: str) -> None:
    """Whatever comes of their operations, each call has an answer, every answer is a true one, and nothing is left."""
    stage.warm(way)
    app, session = stage.app, stage.session
    answers: list[tuple[int, ...]] = []
    wrong: list[bool] = []

    def sign() -> None:
        for _ in range(40):
            started = app.start("Sign", session, HOW["Sign"], stage.key)
            rv, _, content, _ = app.guarded("Sign", session, TEXT, 16)
            wrong.append(rv == OK and content[:16] != stage.seal)
            answers.append((started, rv))

    threads = [Thread(target=sign) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 120
    assert not any(wrong)
    assert {rv for pair in answers for rv in pair} <= {OK, ck.CKR_OPERATION_ACTIVE, ck.CKR_OPERATION_NOT_INITIALIZED}
    assert app.places(session) == (False, 0)
    assert app.books(stage.slot)[:2] == ([0, 0], [0.0, 0.0])
    stage.end()


@pytest.mark.parametrize("way", WAYS[:2])
def test_the_end_comes_under_a_call(stage: Stage, way: str) -> None:
    """C_CloseSession and C_Finalize while calls are on their way: each has an answer; a new run knows of nothing."""
    stage.warm(way)
    app = stage.app
    session = app.open(stage.slot)[1]
    allowed = {OK, ck.CKR_SESSION_HANDLE_INVALID, ck.CKR_CRYPTOKI_NOT_INITIALIZED, ck.CKR_DEVICE_ERROR}
    answers: set[int] = set()
    stage.plan.set("C_GenerateRandom -> delay 20")

    def ask(of: int) -> None:
        for _ in range(20):
            answers.add(app.random(of)[0])

    threads = [Thread(target=ask, args=(each,)) for each in (session, session, stage.session)]
    for thread in threads:
        thread.start()
    stage.plan.wait_for("C_GenerateRandom", 2)
    assert app.close(session) == OK
    stage.end()
    for thread in threads:
        thread.join()
    assert answers <= allowed
    before = len(stage.made.logged())
    stage.warm("express")
    assert " lost: " not in stage.made.logged()[before:]
    stage.end()


@pytest.mark.parametrize("way", WAYS[:2])
def test_a_loss_says_nothing_of_the_next_run(stage: Stage, way: str) -> None:
    """C_Finalize and C_Initialize while a thread has not told yet which member it lost: that member is a new one now,
    with the same number, generation and session."""
    stage.warm(way)
    app = stage.app
    app.hold_losses()
    stage.plan.set("C_GenerateRandom once -> crash")
    answers: list[int] = []
    session = stage.session
    late = Thread(target=lambda: answers.append(app.random(session)[0]))
    late.start()
    assert app.loss_is_held()
    stage.end()
    stage.begin()
    assert stage.session == session
    before = len(stage.made.logged())
    app.let_losses_go()
    late.join()
    assert answers == [ck.CKR_CRYPTOKI_NOT_INITIALIZED]
    assert [app.random(stage.session)[0] for _ in range(4)] == [OK] * 4
    assert app.books(stage.slot) == ([0, 0], [0.0, 0.0], 4, {}, 0)
    assert app.members_in(stage.slot) == 2
    assert " lost: " not in stage.made.logged()[before:]
    stage.end()


def test_a_mechanism_whose_parameter_points_elsewhere_goes_the_general_way(stage: Stage) -> None:
    """Pointers of the application never travel: GCM's parameter has two."""
    stage.warm("express")
    before = stage.app.counted()["C_EncryptInit"]
    gcm = (ck.CKM_AES_GCM, [("pointer", bytes(12)), 96, ("pointer", b"aad"), 128])
    how, _alive = _mechanism(gcm)
    assert how.length == 48
    assert stage.app.start("Encrypt", stage.session, gcm, stage.key) == OK
    assert stage.app.counted()["C_EncryptInit"] == before
    assert stage.app.guarded("Encrypt", stage.session, TEXT, 64)[:2] == (OK, len(TEXT) + 16)
    stage.end()
