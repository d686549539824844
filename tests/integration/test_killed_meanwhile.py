"""A creation or a change is under way in one process while another one resynchronises, and either is killed (kill -9):
the other goes on, and in the end all members hold the same (SEMANTICS.md section 5)."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from tests.chaos import LIMIT, Plan, behind_chaos
from tests.client import Client, client
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import P256, STAYS
from tests.integration.test_exclusion import FAR, other_process
from tests.integration.test_group_sync import Sync
from tests.integration.test_not_waited import until
from tests.integration.test_resync import contents, labels
from tests.integration.test_tombstones import found

Group = Callable[..., TestGroup]
LABEL = "synced"
Work = Callable[[Client, int], int]


def aes(label: bytes) -> dict[int, Any]:
    return {**STAYS, ck.CKA_LABEL: label, ck.CKA_VALUE_LEN: 32}


def creation(label: bytes) -> Work:
    return lambda app, session: app.generate(session, ck.CKM_AES_KEY_GEN, aes(label))[0]


def change(kind: int) -> Work:
    def work(app: Client, session: int) -> int:
        (key,) = app.find(session, {ck.CKA_LABEL: b"it"})[1]
        return app.set(session, key, {kind: False})

    return work


class Running:
    """One call of an application, in a thread. `answered`: its CK_RV, once it has one."""

    def __init__(self, made: TestGroup, app: Client, work: Work) -> None:
        self.answered: list[int] = []
        self.pid = app.pid()
        session = app.logged_in(app.slot_of(LABEL), made.pin)
        self.thread = threading.Thread(target=self._run, args=(app, session, work))
        self.thread.start()

    def _run(self, app: Client, session: int, work: Work) -> None:
        with suppress(EOFError, ConnectionError):  # killed
            self.answered.append(work(app, session))


@contextmanager
def running(made: TestGroup, work: Work) -> Iterator[Running]:
    with suppress(EOFError, ConnectionError), client(made.module, made.environment) as app:
        its = Running(made, app, work)
        yield its
        its.thread.join(LIMIT)
        assert not its.thread.is_alive()


def test_one_is_killed(
    group: Group, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = Sync(group(label=LABEL), capsys, monkeypatch)
    made = sync.made
    plans = behind_chaos(made, tmp_path)
    other = other_process(made)
    probe = other._opened()
    assert probe is not None

    def resync() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-m", "pyha.cli.main", *sync.words], stdout=subprocess.DEVNULL)

    def waiting() -> "subprocess.Popen[bytes]":
        process = resync()
        until(lambda: probe.is_held(other._loner))
        return process

    def hang(plan: Plan, entry: str) -> None:
        # Added: what a process was killed in must not be let go, its helper may not have ended yet.
        plan.add(f"{entry} once -> hang")

    with made.application() as app:
        for label in (b"it", b"lacking"):
            app.generate(ck.CKM_AES_KEY_GEN, aes(label))
    # The resync, while it waits for a creation, which goes on to its end.
    hang(plans[1], "C_UnwrapKey")
    with running(made, creation(b"first")) as its:
        plans[1].wait_for("C_UnwrapKey")
        process = waiting()
        process.kill()
        process.wait(LIMIT)
        plans[1].release()
    assert its.answered == [ck.CKR_OK]
    expect(made, b"first")
    # The resync at work; a change waits for it, and is let in by its death.
    with made.member(2) as plain:
        plain.destroy(found(plain, b"lacking"))
    with other.alone(FAR):
        process = resync()
        until(lambda: probe.is_held(other._resync))
        hang(plans[2], "C_UnwrapKey")
    plans[2].wait_for("C_UnwrapKey")
    with running(made, change(ck.CKA_ENCRYPT)) as its:
        process.kill()
        process.wait(LIMIT)
    assert its.answered == [ck.CKR_OK]
    assert sync()[0] == 0
    expect(made, b"first", ck.CKA_ENCRYPT)
    # The application, half way; the resync, which waits for it, makes all members alike.
    for work, function in ((change(ck.CKA_DECRYPT), "C_SetAttributeValue"), (creation(b"second"), "C_UnwrapKey")):
        before = plans[1].fired().count(function)
        hang(plans[1], function)
        with running(made, work) as its:
            plans[1].wait_for(function, before + 1)
            process = waiting()
            os.kill(its.pid, signal.SIGKILL)
            assert process.wait(LIMIT) == 0
        assert its.answered == []
    expect(made, b"second", ck.CKA_ENCRYPT, ck.CKA_DECRYPT)
    probe.close()


@pytest.mark.parametrize(("usage", "proof"), [(ck.CKA_SIGN, "C_SignInit"), (ck.CKA_DERIVE, "C_DeriveKey")])
def test_a_new_private_key_is_proved_before_it_is_on_a_token(
    group: Group, tmp_path: Path, usage: int, proof: str
) -> None:
    """Nobody could tell of one that is on a token whether it is the key, and its maker may be killed."""
    made = group(members=2, label=LABEL)
    plan = behind_chaos(made, tmp_path)[1]
    named: dict[int, Any] = {ck.CKA_LABEL: b"it", ck.CKA_ID: b"1"}
    public = {**named, ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256}
    private = {**named, **STAYS, ck.CKA_SIGN: False, ck.CKA_DERIVE: False, usage: True}
    plan.set(f"{proof} -> hang")
    with running(made, lambda app, session: app.pair(session, ck.CKM_EC_KEY_PAIR_GEN, public, private)[0]) as its:
        plan.wait_for(proof)
        os.kill(its.pid, signal.SIGKILL)
    assert its.answered == []
    with made.member(1) as plain:
        assert plain.find({ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, ck.CKA_LABEL: b"it"}) == []
    plan.release()  # its helper would hang for as long as the call may take


def expect(made: TestGroup, last: bytes, *changed: int) -> None:
    """All members hold the same: keys up to the `last` that was made, and "it" with those attributes changed."""
    first, second, third = contents(made)
    assert first == second == third
    assert labels(first) == [b"first", b"it", b"lacking", b"second"][: None if last == b"second" else 3]
    (it,) = [attributes for attributes in map(dict, first) if attributes[ck.CKA_LABEL] == b"it"]
    assert [kind for kind in (ck.CKA_ENCRYPT, ck.CKA_DECRYPT) if it[kind] == b"\0"] == list(changed)
