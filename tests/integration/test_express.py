"""The express way over real tokens: who serves, what makes a call Python's again, and what goes on beside it.

That each function meets each fault as on the other ways is test_straight_faults.py's.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

from pyha.cli import chaos_plan
from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings
from tests.chaos import LIMIT, Plan
from tests.client import Client, aes_key, ec_pair, helpers
from tests.integration.conftest import TestGroup
from tests.integration.test_straight_faults import Watched, _Manager

OK = ck.CKR_OK
LABEL = f"express-{os.getpid()}"
CMAC = ck.CKM_AES_CMAC
IN_THE_BACKGROUND = RecoverySettings(RecoveryMode.BACKGROUND, attempts=0)
TEXT = b"some bytes to be signed"

Group = Callable[..., TestGroup]


@contextmanager
def application(made: TestGroup, more: Mapping[str, str] | None = None) -> Iterator[tuple[Watched, int, int]]:
    """(client in a process of its own, slot, session that is logged in). `more`: of its environment."""
    with _Manager(ctx=get_context("spawn")) as manager:
        app = cast(Any, manager).Watched(made.module, {**made.environment, **(more or {})})
        assert app.initialize() == OK
        slot = app.slot_of(LABEL)
        yield app, slot, app.logged_in(slot)
        assert app.finalize() == OK


def planned(made: TestGroup, directory: Path) -> list[Plan]:
    """A plan of its own for each member."""
    plans = [Plan(directory / f"plan-{index}") for index in range(len(made.tokens))]
    for index, plan in enumerate(plans):
        made.put_module(index, chaos_plan.chaos_module(), plan.environment)
    return plans


def signs(app: Client, session: int, key: int) -> bytes:
    rv, seal = app.sign(session, CMAC, key, TEXT)
    assert rv == OK
    return seal


def warm(app: Watched, slot: int, session: int, key: int, most: int = 100) -> None:
    """Signs until nothing of it needs Python."""
    for _ in range(most):
        before = app.by_express(slot)
        for _ in range(6):
            signs(app, session, key)
            assert app.random(session)[0] == OK
        if app.by_express(slot) == before + 12:
            return
    raise AssertionError("it is Python's again and again")


def test_every_member_has_its_turn(group: Group) -> None:
    made = group(label=LABEL, recovery=IN_THE_BACKGROUND)
    with application(made) as (app, slot, session):
        key = aes_key(app, session)
        warm(app, slot, session, key)
        before = app.served(slot)
        seals = {signs(app, session, key) for _ in range(60)}
        assert [now - then for now, then in zip(app.served(slot), before, strict=True)] == [20, 20, 20]
        assert len(seals) == 1
        assert app.by_express(slot) >= 60


def test_a_member_inside_the_application(group: Group) -> None:
    made = group(members=1, label=LABEL, isolation="none", recovery=IN_THE_BACKGROUND)
    with application(made, made.tokens[0].environment) as (app, slot, session):
        key = aes_key(app, session)
        warm(app, slot, session, key)
        seal = signs(app, session, key)
        found: list[bytes] = []

        def work() -> None:
            own = app.open(slot)[1]
            found.extend(signs(app, own, key) for _ in range(40))

        threads = [Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [seal] * 160
        assert app.books(slot)[:2] == ([0], [0.0])


def test_who_is_busy_is_left_alone(group: Group, tmp_path: Path) -> None:
    """A call that lasts counts as long: by Python's calls as by C's, and for both."""
    made = group(members=2, label=LABEL, recovery=IN_THE_BACKGROUND)
    plans = planned(made, tmp_path)
    with application(made) as (app, slot, session):
        key = aes_key(app, session)
        warm(app, slot, session, key)
        plans[0].set("C_GenerateRandom once -> hang")
        others = [app.open(slot)[1] for _ in range(2)]
        threads = [Thread(target=app.random, args=(each,)) for each in others]
        for thread in threads:
            thread.start()
        plans[0].wait_for("C_GenerateRandom")
        end = time.monotonic() + LIMIT
        while all(thread.is_alive() for thread in threads):  # the other member is busy too as long
            assert time.monotonic() < end
            time.sleep(0.01)
        before = app.served(slot)
        for _ in range(20):
            signs(app, session, key)
        held, free = (now - then for now, then in zip(app.served(slot), before, strict=True))
        plans[0].release()
        for thread in threads:
            thread.join()
        assert held == 0
        assert free >= 20


def test_what_is_gone_is_gone_here_too(group: Group) -> None:
    made = group(label=LABEL, recovery=IN_THE_BACKGROUND)
    with application(made) as (app, slot, session):
        key, other = aes_key(app, session), aes_key(app, session, b"other")
        warm(app, slot, session, key)
        warm(app, slot, session, other)
        assert app.destroy(session, key) == OK
        for _ in range(6):
            assert app.start("Sign", session, CMAC, key) == ck.CKR_KEY_HANDLE_INVALID
        signs(app, session, other)
        # Begun by C, and ended by the logout.
        assert app.start("Sign", session, CMAC, other) == OK
        assert app.logout(session) == OK
        assert app.out("Sign", session, TEXT)[0] == ck.CKR_OPERATION_NOT_INITIALIZED
        for _ in range(6):
            assert app.start("Sign", session, CMAC, other) == ck.CKR_KEY_HANDLE_INVALID
        assert app.random(session)[0] == OK
        assert app.login(session, made.pin) == OK
        found = app.find(session, {ck.CKA_LABEL: b"other"})[1]
        assert len(found) == 1
        signs(app, session, found[0])
        assert app.close(session) == OK
        assert app.random(session)[0] == ck.CKR_SESSION_HANDLE_INVALID
        assert app.start("Digest", session, ck.CKM_SHA256) == ck.CKR_SESSION_HANDLE_INVALID


def test_an_operation_goes_on_where_its_member_is_gone(group: Group) -> None:
    made = group(label=LABEL, recovery=IN_THE_BACKGROUND)
    with application(made) as (app, slot, session):
        key = aes_key(app, session)
        warm(app, slot, session, key)
        seal = signs(app, session, key)
        sessions = [app.open(slot)[1] for _ in range(6)]
        for each in sessions:
            for _ in range(6):
                signs(app, each, key)
        for each in sessions:
            assert app.start("Sign", each, CMAC, key) == OK
        name, victim = min(helpers(LABEL).items())
        next(token for token in made.tokens if token.label == name).strike(victim, signal.SIGKILL)
        for each in sessions:
            assert app.out("Sign", each, TEXT)[::2] == (OK, seal)
        assert app.books(slot)[:2] == ([0, 0, 0], [0.0, 0.0, 0.0])


def test_a_part_after_it_is_python_s(group: Group) -> None:
    """C begins an operation, Python goes on with it; and takes over what there is to be taken over, the load too."""
    made = group(label=LABEL, recovery=IN_THE_BACKGROUND)
    with application(made) as (app, slot, session):
        key = aes_key(app, session)
        warm(app, slot, session, key)
        seal = signs(app, session, key)
        for _ in range(3):
            assert app.start("Sign", session, CMAC, key) == OK
            assert app.start("Sign", session, CMAC, key) == ck.CKR_OPERATION_ACTIVE
            assert app.feed("SignUpdate", session, TEXT) == OK
            assert app.out("SignFinal", session)[::2] == (OK, seal)
            assert signs(app, session, key) == seal
        assert app.books(slot)[:2] == ([0, 0, 0], [0.0, 0.0, 0.0])


def test_a_loss_is_told_though_its_session_was_closed(group: Group, tmp_path: Path) -> None:
    """C_CloseSession waits for the call that is out, and comes before it is known what that call has met."""
    made = group(members=2, label=LABEL, recovery=IN_THE_BACKGROUND)
    plans = planned(made, tmp_path)
    with application(made) as (app, slot, session):
        key = aes_key(app, session)
        own = app.open(slot)[1]
        warm(app, slot, own, key)
        for plan in plans:
            plan.set("C_SignInit once -> hang")
        answers: list[int] = []
        started = Thread(target=lambda: answers.append(app.start("Sign", own, CMAC, key)))
        started.start()
        plans[0].wait(lambda: any("C_SignInit" in plan.fired() for plan in plans))
        closed = Thread(target=lambda: answers.append(app.close(own)))
        closed.start()
        closing = time.monotonic() + 0.5  # so that it waits; where it does not yet, the call comes first: as good
        while time.monotonic() < closing and not answers:
            time.sleep(0.05)
        name, victim = next(
            (token.label, helpers(LABEL)[token.label])
            for token, plan in zip(made.tokens, plans, strict=True)
            if "C_SignInit" in plan.fired()
        )
        next(token for token in made.tokens if token.label == name).strike(victim, signal.SIGKILL)
        for thread in (started, closed):
            thread.join()
        assert set(answers) <= {OK, ck.CKR_SESSION_HANDLE_INVALID}
        assert " lost: " in made.logged()
        for plan in plans:
            plan.release()


def test_the_operator_s_word_is_heard(group: Group) -> None:
    """A member that is taken out gets no call any more, though every call goes without Python."""
    made = group(label=LABEL, recovery=IN_THE_BACKGROUND)
    with application(made) as (app, slot, session):
        key = aes_key(app, session)
        warm(app, slot, session, key)

        def without_first(settings: Any) -> Any:
            first, *rest = settings.members
            return replace(settings, members=(replace(first, enabled=False), *rest))

        made.reconfigure(without_first)
        end = time.monotonic() + LIMIT
        while True:
            before = app.served(slot)[0]
            for _ in range(9):
                signs(app, session, key)
            if app.served(slot)[0] == before:
                break
            assert time.monotonic() < end


def test_more_threads_than_places(group: Group) -> None:
    made = group(members=1, label=LABEL, recovery=IN_THE_BACKGROUND)
    made.reconfigure(lambda settings: replace(settings, max_in_flight=1))
    with application(made) as (app, slot, session):
        key = aes_key(app, session)
        seal = signs(app, session, key)
        answers: list[bytes] = []

        def work() -> None:
            own = app.open(slot)[1]
            for _ in range(40):
                answers.append(signs(app, own, key))
                assert app.get(own, key, ck.CKA_LABEL) == (OK, b"aes")

        threads = [Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [seal] * 160


def test_all_at_once(group: Group) -> None:
    """Threads with and without Python, sessions that come and go, and members that die: every answer is true."""
    made = group(label=LABEL, recovery=RecoverySettings(RecoveryMode.BACKGROUND, interval=1.0))
    with application(made) as (app, slot, session):
        key = aes_key(app, session)
        _, private = ec_pair(app, session)
        seal = signs(app, session, key)
        over = Event()
        wrong: list[Any] = []

        def expect(good: bool, what: Any) -> None:
            if not good:
                wrong.append(what)
                over.set()

        def sign() -> None:
            own = app.open(slot)[1]
            while not over.is_set():
                found = app.sign(own, CMAC, key, TEXT)
                expect(found == (OK, seal), found)
                expect(app.sign(own, ck.CKM_ECDSA, private, bytes(32))[0] == OK, "ECDSA")

        def come_and_go() -> None:
            while not over.is_set():
                own = app.open(slot)[1]
                for _ in range(4):
                    expect(app.random(own)[0] == OK, "random")
                    expect(app.get(own, key, ck.CKA_LABEL) == (OK, b"aes"), "get")
                expect(app.start("Digest", own, ck.CKM_SHA256) == OK, "digest")
                expect(app.close(own) == OK, "close")

        def in_parts() -> None:
            own = app.open(slot)[1]
            while not over.is_set():
                rv = app.start("Sign", own, CMAC, key) or app.feed("SignUpdate", own, TEXT)
                found = app.out("SignFinal", own)[::2]
                expect((rv, found) == (OK, (OK, seal)), (rv, found))

        threads = [Thread(target=each) for each in (sign, sign, come_and_go, in_parts)]
        for thread in threads:
            thread.start()
        try:
            for token in made.tokens[:2]:
                before = app.by_express(slot)
                while app.by_express(slot) < before + 30 and not over.is_set():
                    time.sleep(0.01)
                victim = helpers(LABEL).get(token.label)
                if victim is not None:
                    token.strike(victim, signal.SIGKILL)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert not wrong
        assert app.books(slot)[:2] == ([0, 0, 0], [0.0, 0.0, 0.0])
