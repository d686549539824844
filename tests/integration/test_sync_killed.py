"""`pyha group sync` killed (kill -9) beside every call that changes a token: run again it ends in the same state, and
no copy of a key counts that nobody has proved."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.application import Application
from tests.chaos import Plan, behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import P256, STAYS
from tests.integration.test_group_sync import Sync, differ
from tests.integration.test_resync import contents, labels
from tests.integration.test_tombstones import found

Group = Callable[..., TestGroup]
CHANGING = ("C_CreateObject", "C_UnwrapKey", "C_DestroyObject", "C_SetAttributeValue")


@pytest.fixture
def sync(group: Group, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sync:
    return Sync(group(label="synced"), capsys, monkeypatch)


def killed(sync: Sync, plans: list[Plan]) -> bool:
    """Run the command until it comes to an entry of a plan, and kill it there; False where it came to its end."""
    before = [len(plan.fired()) for plan in plans]
    command = [sys.executable, "-m", "pyha.cli.main", *sync.words]
    running = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL)
    over = threading.Event()

    def met() -> bool:
        return any(len(plan.fired()) > times for plan, times in zip(plans, before, strict=True))

    def kill() -> None:
        plans[0].wait(lambda: over.is_set() or met())
        if not over.is_set():
            running.send_signal(signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        status = running.wait(120)
    finally:
        over.set()
        (plans[0].path.parent / "over").write_text("")
        killing.join()
    assert status in (0, -signal.SIGKILL)
    return status != 0


def proofs(plan: Plan) -> int:
    """How often one process of a dry run creates session objects, with which it proves the domain keys."""
    by_process: dict[str, int] = {}
    for line in plan.journal("fired"):
        by_process[line.split()[0]] = by_process.get(line.split()[0], 0) + 1
    return max(by_process.values())


def test_killed_at_every_call_that_changes_a_token(sync: Sync, tmp_path: Path) -> None:
    """Each run gets one call further, of whichever function, than it has to."""
    made = sync.made
    differ(made)
    plans = behind_chaos(made, tmp_path)
    for plan in plans:
        plan.set("C_CreateObject every=1 -> delay 0")
    assert sync("--dry-run")[0] == 1
    first = max(proofs(plan) for plan in plans)
    nth = {"C_CreateObject": first + 2, "C_UnwrapKey": 3, "C_DestroyObject": 2, "C_SetAttributeValue": 3}
    for plan in plans:
        plan.set(*(f"{name} nth={nth[name]} -> hang" for name in CHANGING))
    runs = 1
    while killed(sync, plans):
        runs += 1
        assert runs < 40
    assert runs > 3
    for plan in plans:
        plan.set()
    # The helper that was killed last may have lived long enough to be let go, and to make what it hung in.
    assert sync()[0] == 0
    assert sync("--dry-run")[0] == 0
    held = contents(made)
    assert held[0] == held[1] == held[2]
    assert labels(held[0]) == [b"everywhere", b"one", b"pair", b"pair", b"zero"]


def aes(app: Application, label: bytes) -> int:
    return app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: label, ck.CKA_VALUE_LEN: 32})


@pytest.mark.parametrize("wrong", [False, True])
def test_a_copy_that_nobody_has_proved_is_proved_before_it_counts(sync: Sync, tmp_path: Path, wrong: bool) -> None:
    """Of the second of two secret keys, where the first is what the module makes of both."""
    made = sync.made
    with made.application() as app:
        for label in (b"one", b"two"):
            aes(app, label)
    with made.member(2) as plain:
        for label in (b"one", b"two"):
            plain.destroy(found(plain, label))
    plan = behind_chaos(made, tmp_path)[2]
    plan.set("C_SetAttributeValue nth=3 -> hang", *(["C_UnwrapKey nth=2 -> substitute"] if wrong else []))
    entry = "C_SetAttributeValue nth=3 -> hang"
    assert killed(sync, [_Only(plan, entry)])
    plan.set()
    with made.member(2) as plain:
        assert [len(plain.find({ck.CKA_LABEL: label})) for label in (b"one", b"two")] == [1, 1]
    for _ in range(2):
        status, out, _ = sync()
        assert status == wrong
        assert ("it is not proved to be the same key" in out) == wrong
    with ExitStack() as stack:
        members = [stack.enter_context(made.member(index)) for index in range(3)]
        for label in (b"one", b"two"):
            shown = {member.encrypt(ck.CKM_AES_ECB, found(member, label), bytes(16)) for member in members}
            checks = [member.read(found(member, label), ck.CKA_CHECK_VALUE)[ck.CKA_CHECK_VALUE] for member in members]
            if wrong and len(shown) == 2:
                assert not checks[2]
            else:
                assert len(set(checks)) == len(shown) == 1


class _Only(Plan):
    """The plan, of which only one entry counts."""

    def __init__(self, plan: Plan, entry: str) -> None:
        self.path = plan.path
        self._entry = entry

    def fired(self) -> list[str]:
        return [""] * self.count(self._entry)


def test_a_private_key_is_proved_before_it_is_on_the_token(sync: Sync, tmp_path: Path) -> None:
    made = sync.made
    with made.application() as app:
        public = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_LABEL: b"it", ck.CKA_ID: b"1"}
        app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**STAYS, ck.CKA_LABEL: b"it", ck.CKA_ID: b"1", ck.CKA_SIGN: True})
    private = {ck.CKA_LABEL: b"it", ck.CKA_CLASS: ck.CKO_PRIVATE_KEY}
    with made.member(2) as plain:
        plain.destroy(plain.find(private)[0])
    plan = behind_chaos(made, tmp_path)[2]
    plan.set("C_SignInit nth=1 -> hang")
    assert killed(sync, [plan])
    with made.member(2) as plain:
        assert plain.find(private) == []
    plan.set()
    assert sync()[0] == 0
    held = contents(made)
    assert held[0] == held[1] == held[2]
