"""Fork while a member is being lost and while one is on its way back (SEMANTICS.md section 4).

The program is in C: what it forks with is the module's own threads and those of its application, no other Python's.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.burst import helper_of
from pyha.cli import config_write
from pyha.cryptoki import constants as ck
from pyha.runtime import config
from pyha.runtime.settings import LogLevel
from tests.application import application
from tests.chaos import Plan, behind_chaos
from tests.client import EC, helpers
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import STAYS
from tests.integration.test_recovery import AT_ONCE, LONGEST, until
from tests.native_tools import NATIVE, compile_c

Group = Callable[..., TestGroup]
LABEL = f"forking-{os.getpid()}"
KEY = b"forked"


class Forking:
    """The program at work, with members behind plans."""

    def __init__(self, made: TestGroup, plans: list[Plan], process: "subprocess.Popen[str]") -> None:
        self.made, self.plans, self.process = made, plans, process
        self.heard()

    def heard(self) -> None:
        """The last request has been carried out."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ok\n", (self.process.wait(60), self.made.logged())

    def ask(self, what: str) -> None:
        """Request "fork" or "work"; `heard` follows."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()

    def kill(self, index: int) -> None:
        """The parent's helper of this member dies."""
        token = self.made.tokens[index]
        token.strike(helper_of(self.process.pid, f"{LABEL}/{token.label}"), signal.SIGKILL)

    def served_by_all(self) -> None:
        """Every member has a helper, and the parent works."""
        assert len(helpers(LABEL)) == 3
        self.ask("work")
        self.heard()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    flags = ("-I/usr/include/p11-kit-1", f"-I{NATIVE}", "-pthread", "-ldl")
    return compile_c(NATIVE / "fork_now.c", tmp_path / "fork_now", *flags)


def ended() -> None:
    """No helper is left: they are killed at the end, and not waited for."""
    end = time.monotonic() + LONGEST
    while left := helpers(LABEL):
        assert time.monotonic() < end, left
        time.sleep(0.01)


@contextmanager
def forking(group: Group, directory: Path, program: Path, deadline: float = 20.0) -> Iterator[Forking]:
    made = group(label=LABEL, recovery=AT_ONCE)
    written = replace(config.load(str(made.conf)), log_level=LogLevel.NOTICE)
    config_write.write(str(made.conf), config_write.render(written))
    made.reconfigure(lambda settings: replace(settings, deadline=deadline))
    public = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: EC, ck.CKA_LABEL: KEY, ck.CKA_ID: KEY}
    with application(made.module, made.environment, LABEL, made.pin) as app:
        app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**STAYS, ck.CKA_LABEL: KEY, ck.CKA_ID: KEY, ck.CKA_SIGN: True})
    plans = behind_chaos(made, directory)
    errors = directory / "errors"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [str(program), made.module, made.pin, KEY.decode()],
            env=made.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        yield Forking(made, plans, process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0, errors.read_text()
        assert errors.read_text() == ""
        ended()
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()


def test_fork_at_the_moment_a_helper_is_killed(group: Group, tmp_path: Path, program: Path) -> None:
    with forking(group, tmp_path, program) as it:
        for victim in range(3):
            it.kill(victim)
            it.ask("fork")
            it.heard()
            it.ask("work")
            it.heard()
            until(it.made, f"member {LABEL}-{victim} returned")
        it.served_by_all()


def test_fork_while_a_call_is_stuck_in_a_member_that_will_be_lost(group: Group, tmp_path: Path, program: Path) -> None:
    """The fork comes while a thread waits inside the hung call; its deadline comes while the child works."""
    with forking(group, tmp_path, program, deadline=3.0) as it:
        plan = it.plans[0]
        plan.set("C_Sign nth=1 -> hang")
        plan.wait_for("C_Sign")
        it.ask("fork")
        it.heard()
        # The child may have lost it too; what is waited for is the parent's loss.
        until(it.made, f'pyha[{it.process.pid}]: error: group "{LABEL}": member {LABEL}-0 lost: C_Sign did not return')
        plan.release()
        until(it.made, f"member {LABEL}-0 returned")
        it.served_by_all()


@pytest.mark.parametrize("function", ["C_Initialize", "C_OpenSession", "C_Login", "C_FindObjectsInit"])
def test_fork_in_the_middle_of_a_recovery(group: Group, tmp_path: Path, program: Path, function: str) -> None:
    """The returning member's own call is held back for so long that the fork falls into it."""
    with forking(group, tmp_path, program) as it:
        plan = it.plans[1]
        plan.set(f"{function} once -> delay 700")
        it.kill(1)
        plan.wait_for(function)
        it.ask("fork")
        it.heard()
        until(it.made, f"member {LABEL}-1 returned")
        it.served_by_all()
        # It is a whole member: alone it serves as well.
        it.kill(0)
        it.kill(2)
        it.ask("work")
        it.heard()


def test_a_child_recovers_its_own_members_and_the_parents_are_untouched(
    group: Group, tmp_path: Path, program: Path
) -> None:
    with forking(group, tmp_path, program) as it:
        before = helpers(LABEL)
        for plan in it.plans[:2]:
            plan.set("C_Initialize once -> answer CKR_DEVICE_ERROR")
        it.ask("fork")
        it.heard()
        assert [plan.fired() for plan in it.plans[:2]] == [["C_Initialize"]] * 2
        # The child's own helpers, which bear the same titles, are killed at its end and not waited for.
        end = time.monotonic() + LONGEST
        while (now := helpers(LABEL)) != before:
            assert time.monotonic() < end, (now, before)
            time.sleep(0.01)
        it.served_by_all()
