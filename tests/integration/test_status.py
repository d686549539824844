"""`pyha status` over processes that use a group of real tokens (SEMANTICS.md section 4)."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyha.cli.main import main
from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings
from pyha.runtime import config
from tests.client import Client, client, ec_pair
from tests.integration.conftest import NO_RECOVERY, TestGroup
from tests.integration.test_recovery import AT_ONCE, kill, until

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
LABEL = f"status-{os.getpid()}"
DIES = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from tests.client import Client
app = Client(sys.argv[2])
assert app.initialize() == 0
app.logged_in(app.slot_of(sys.argv[3]))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes of a test publish."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "pyha"


class Status:
    """Looks at the status of the group, as an operator does."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def text(self, *words: str) -> tuple[int, str]:
        """Exit status and output."""
        self._capsys.readouterr()
        return main(["status", LABEL, *words]), self._capsys.readouterr().out

    def group(self) -> dict[str, Any]:
        """The group as --json has it."""
        (group,) = json.loads(self.text("--json")[1])
        return dict(group)

    def codes(self) -> list[str]:
        """A code a member."""
        return [member["status"] for member in self.group()["members"]]

    def member(self, index: int) -> dict[str, Any]:
        """A member in the only process."""
        (process,) = self.group()["processes"]
        return dict(process["members"][index])


@pytest.fixture
def status(capsys: pytest.CaptureFixture[str]) -> Status:
    return Status(capsys)


@contextmanager
def application(made: TestGroup, board: Path, flags: int | None = None) -> Iterator[Client]:
    environment = {**made.environment, "XDG_RUNTIME_DIR": str(board.parent)}
    with client(made.module, environment, initialize=False) as app:
        assert app.initialize(flags) == OK
        yield app


def test_the_first_status_after_a_failure_says_so_and_later_ones_that_the_token_is_gone(
    group: Group, board: Path, status: Status
) -> None:
    made = group(label=LABEL, recovery=NO_RECOVERY)
    (settings,) = config.load(str(made.conf)).groups
    with application(made, board) as app:
        session = app.logged_in(app.slot_of(LABEL))
        code, text = status.text()
        assert code == 0
        assert text.splitlines()[:4] == [
            f"HA group {settings.serial} status:",
            *(f"   HSM {token.serial:<18} - CKR_OK" for token in made.tokens),
        ]
        kill(made, 1)
        until(made, f"member {LABEL}-1 lost", app, session)
        assert status.codes() == ["CKR_OK", "CKR_DEVICE_ERROR", "CKR_OK"]
        assert status.codes() == ["CKR_OK", "CKR_TOKEN_NOT_PRESENT", "CKR_OK"]
        code, text = status.text()
        assert code == 1
        assert f"   HSM {made.tokens[1].serial:<18} - CKR_TOKEN_NOT_PRESENT\n" in text
        assert f"{LABEL}-1: its helper ended during C_GenerateRandom" in text


def test_a_returned_member_is_ok_again_and_its_next_loss_is_a_new_one(
    group: Group, board: Path, status: Status
) -> None:
    made = group(label=LABEL, recovery=RecoverySettings(RecoveryMode.ON_CALL, interval=0.001))
    with application(made, board) as app:
        session = app.logged_in(app.slot_of(LABEL))
        for losses in (1, 2):
            kill(made, 0)
            while status.member(0)["losses"] < losses:
                assert app.random(session)[0] == OK
            while status.codes()[0] != "CKR_OK":
                assert app.random(session)[0] == OK
        member = status.member(0)
        assert (member["generation"], member["attempts"], member["failed-attempts"]) == (3, 2, 0)


def test_what_was_served_and_answered_is_counted(group: Group, board: Path, status: Status) -> None:
    made = group(label=LABEL, recovery=NO_RECOVERY)
    with application(made, board, ck.CKF_LIBRARY_CANT_CREATE_OS_THREADS) as app:
        session = app.logged_in(app.slot_of(LABEL))
        _, private = ec_pair(app, session)
        for _ in range(30):
            assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
        assert app.sign(session, ck.CKM_RSA_PKCS, private, bytes(32))[0] == ck.CKR_GENERAL_ERROR
        kill(made, 0)
        until(made, "lost", app, session)  # is published at once, with all that was counted before
        (process,) = status.group()["processes"]
        members = process["members"]
        assert sum(member["served"] for member in members) >= 30
        assert [member["errors"] for member in members if member["errors"]] == [{"CKR_GENERAL_ERROR": 1}]
        # The failover itself came after the news; another member's loss publishes it.
        kill(made, 1)
        while f"member {LABEL}-1 lost" not in made.logged():
            assert app.random(session)[0] == OK
        (process,) = status.group()["processes"]
        assert process["failovers"] >= 1


@pytest.mark.parametrize("flags", [None, ck.CKF_LIBRARY_CANT_CREATE_OS_THREADS])
def test_without_news_counters_are_published_while_the_application_works(
    group: Group, board: Path, status: Status, flags: int | None
) -> None:
    made = group(label=LABEL, recovery=AT_ONCE)
    with application(made, board, flags) as app:
        session = app.logged_in(app.slot_of(LABEL))
        while not sum(member["served"] for member in status.group()["processes"][0]["members"]):
            assert app.random(session)[0] == OK
        assert (status.group()["processes"][0]["recovery-mode"] == "background") == (flags is None)


def test_the_views_of_two_processes_are_summed_up(
    group: Group, board: Path, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = group(label=LABEL, recovery=NO_RECOVERY)
    monkeypatch.setenv("PYHA_CONF", str(made.conf))
    with application(made, board) as one:
        session = one.logged_in(one.slot_of(LABEL))
        kill(made, 2)
        until(made, "lost", one, session)
        with application(made, board) as other:
            other.logged_in(other.slot_of(LABEL))
            assert status.codes() == ["CKR_OK", "CKR_OK", "CKR_OK in 1, CKR_DEVICE_ERROR in 1"]
            assert f'"{LABEL}" in 2 processes' in status.text()[1]
            assert other.finalize() == OK
        assert len(status.group()["processes"]) == 1
        assert one.finalize() == OK
        assert list(board.iterdir()) == []
        code, text = status.text()
        assert (code, "no process uses it" in text) == (0, True)


def test_the_dead_are_not_believed_and_are_cleared_away(group: Group, board: Path, status: Status) -> None:
    made = group(label=LABEL, recovery=NO_RECOVERY)
    words = [sys.executable, "-c", DIES, str(Path(__file__).parents[2]), made.module, LABEL]
    environment = {**os.environ, **made.environment, "XDG_RUNTIME_DIR": str(board.parent)}
    assert subprocess.run(words, env=environment).returncode == -signal.SIGKILL
    (left,) = board.iterdir()
    assert str(left.name).count(".") == 3
    assert status.text()[0] == 2, "no configuration names the group, and nobody living uses it"
    assert list(board.iterdir()) == []


FORKS = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tests.client import Client
app = Client(sys.argv[2])
assert app.initialize() == 0
app.logged_in(app.slot_of(sys.argv[3]))
child = os.fork()
if not child:
    assert app.initialize() == 0
    app.logged_in(app.slot_of(sys.argv[3]))
    print(len(os.listdir(sys.argv[4])))
    assert app.finalize() == 0
    print(os.listdir(sys.argv[4])[0].split(".")[0] == str(os.getppid()))
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert app.finalize() == 0
print(os.listdir(sys.argv[4]))
"""


def test_a_forked_child_has_a_status_of_its_own_and_leaves_its_parents_alone(group: Group, board: Path) -> None:
    made = group(label=LABEL, recovery=NO_RECOVERY)
    words = [sys.executable, "-c", FORKS, str(Path(__file__).parents[2]), made.module, LABEL, str(board)]
    environment = {**os.environ, **made.environment, "XDG_RUNTIME_DIR": str(board.parent)}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines() == ["2", "True", "[]"]
