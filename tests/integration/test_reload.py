"""Running applications follow their configuration, without a failed call and without a restart."""

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyha.cli import config_write
from pyha.cli.main import main
from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings, Role
from pyha.runtime import config
from pyha.runtime.settings import GroupSettings, LogLevel
from tests.client import Client, client, ec_pair, helpers
from tests.integration.conftest import TestGroup

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
LABEL = f"reload-{os.getpid()}"
"""Of this run alone: helpers are found by it."""

OFTEN = RecoverySettings(RecoveryMode.BACKGROUND, interval=0.2, attempts=-1)
ON_CALL = RecoverySettings(RecoveryMode.ON_CALL, interval=0.2, attempts=-1)
MANUAL = RecoverySettings(RecoveryMode.MANUAL, interval=0.2, attempts=-1)
LONGEST = 60.0
"""Seconds after which a test stops waiting for what does not happen."""


def made_of(group: Group, recovery: RecoverySettings = OFTEN, **more: Any) -> TestGroup:
    made = group(label=LABEL, recovery=recovery, **more)
    written = replace(config.load(str(made.conf)), log_level=LogLevel.NOTICE)
    config_write.write(str(made.conf), config_write.render(written))
    return made


def member(now: GroupSettings, index: int, **changed: Any) -> GroupSettings:
    """The settings with one member changed."""
    members = list(now.members)
    members[index] = replace(members[index], **changed)
    return replace(now, members=tuple(members))


def without(now: GroupSettings, index: int) -> GroupSettings:
    """The settings without one member."""
    return replace(now, members=(*now.members[:index], *now.members[index + 1 :]))


def pyha(made: TestGroup, action: str, *member: str) -> None:
    """What an administrator types."""
    assert main(["group", action, LABEL, *member, "--config", str(made.conf)]) == 0


def eventually(so: Callable[[], bool], made: TestGroup) -> None:
    """Wait for what another process does, of which there is no event to wait for."""
    limit = time.monotonic() + LONGEST
    while not so():
        assert time.monotonic() < limit, made.logged()
        time.sleep(0.02)


def logged(made: TestGroup, text: str, times: int = 1) -> None:
    """Wait until so many processes have said it."""
    eventually(lambda: made.logged().count(text) >= times, made)


def gone(made: TestGroup, index: int) -> None:
    """Wait until a member has no helper."""
    eventually(lambda: made.tokens[index].label not in helpers(LABEL), made)


@contextmanager
def at_work(app: Client, label: bytes = b"ec") -> Iterator[int]:
    """An application that signs all the time, and that no call fails; gives its session."""
    session = app.logged_in(app.slot_of(LABEL))
    _, private = ec_pair(app, session, label)
    answers: set[int] = set()
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            answers.add(app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield session
    finally:
        end.set()
        thread.join()
    assert answers == {OK}


def test_members_come_and_go_while_two_applications_work(group: Group) -> None:
    made = made_of(group)
    configured = config.load(str(made.conf)).groups[0]
    first, second, third = (token.label for token in made.tokens)
    with client(made.module, made.environment) as one, client(made.module, made.environment) as other:
        slot = one.slot_of(LABEL)
        token = one.token_info(slot)[1][:96]
        with at_work(one), at_work(other, b"other"):
            # The founding member goes, and the one after it stands by.
            pyha(made, "remove", first)
            pyha(made, "standby", made.tokens[1].serial)
            logged(made, f"member {second} is a standby member now", times=2)
            gone(made, 0)
            # A broken file changes nothing, and is named once. (Never half a file: that is broken in another way.)
            good = made.conf.read_text()
            config_write.write(str(made.conf), good.replace("deadline", "dreadline") + "\n[[group]]\nlabel = 7\n")
            logged(made, "the running configuration goes on", times=2)
            config_write.write(str(made.conf), good)
            # It comes back, and works alone: the third is disabled, and the second stands by.
            made.reconfigure(lambda now: replace(now, members=(configured.members[0], *now.members)))
            logged(made, f"member {first} returned", times=2)
            pyha(made, "disable", third)
            gone(made, 2)
            made.reconfigure(lambda now: configured)
            logged(made, f"member {second} is an active member now", times=2)
            logged(made, f"member {third} returned", times=2)
        assert one.slots()[1] == other.slots()[1] == [slot]
        assert one.token_info(slot)[1][:96] == token
        assert made.logged().count("the running configuration goes on") == 2, made.logged()
        assert " lost" not in made.logged(), made.logged()


@pytest.mark.parametrize("recovery", [ON_CALL, MANUAL], ids=["on-call", "manual"])
def test_without_a_thread_the_calls_of_the_application_look(group: Group, recovery: RecoverySettings) -> None:
    made = made_of(group, recovery)
    with client(made.module, made.environment) as app, at_work(app):
        os.kill(helpers(LABEL)[f"{LABEL}-1"], signal.SIGKILL)
        logged(made, f"member {LABEL}-1 lost")
        pyha(made, "recover")
        pyha(made, "remove", f"{LABEL}-0")
        logged(made, f"member {LABEL}-1 returned")
        gone(made, 0)


def test_what_was_begun_on_a_member_ends_there_after_its_removal(group: Group) -> None:
    made = made_of(group, members=1, standby=1)
    data = bytes(1 << 20)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        assert app.start("Digest", session, ck.CKM_SHA256) == OK
        # More than the journal keeps: it cannot be brought to another member.
        for _ in range(5):
            assert app.feed("DigestUpdate", session, data) == OK
        made.reconfigure(lambda now: without(member(now, 1, role=Role.ACTIVE), 0))
        logged(made, f"member {LABEL}-0 is removed")
        assert app.feed("DigestUpdate", session, data) == OK
        rv, _, digest = app.out("DigestFinal", session)
        assert (rv, digest) == (OK, hashlib.sha256(6 * data).digest())
        gone(made, 0)
        assert app.random(session)[0] == OK


@pytest.mark.parametrize(("limit", "answer"), [(1 << 10, ck.CKR_DEVICE_ERROR), (1 << 12, OK)])
def test_the_journal_limit_says_what_can_move_to_another_member(group: Group, limit: int, answer: int) -> None:
    made = made_of(group, MANUAL, members=1, standby=1)
    made.reconfigure(lambda now: replace(now, journal_limit=limit))
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        assert app.start("Digest", session, ck.CKM_SHA256) == OK
        assert app.feed("DigestUpdate", session, bytes(1 << 11)) == OK
        os.kill(helpers(LABEL)[f"{LABEL}-0"], signal.SIGKILL)
        assert app.out("DigestFinal", session)[0] == answer


def test_the_status_is_where_the_operator_wants_it(
    group: Group, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_of(group)
    board = tmp_path / "board"
    written = replace(config.load(str(made.conf)), status_directory=str(board))
    config_write.write(str(made.conf), config_write.render(written))
    monkeypatch.setenv("PYHA_CONF", str(made.conf))

    def status() -> tuple[int, list[str]]:
        capsys.readouterr()
        code = main(["status", LABEL, "--json"])
        (process,) = json.loads(capsys.readouterr().out)[0]["processes"]
        return code, [member["name"] for member in process["members"]]

    with client(made.module, made.environment) as app:
        app.logged_in(app.slot_of(LABEL))
        assert [path.name.split(".")[0] for path in board.iterdir()] == [str(app.pid())]
        assert status() == (0, [f"{LABEL}-0", f"{LABEL}-1", f"{LABEL}-2"])


def test_a_group_that_is_configured_no_more_serves_on(group: Group) -> None:
    made = made_of(group)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        kept = made.conf.read_text()
        written = replace(config.load(str(made.conf)), groups=())
        config_write.write(str(made.conf), config_write.render(written))
        logged(made, "is configured no more")
        assert app.random(session)[0] == OK
        # Back again, with a shorter deadline: followed as before.
        config_write.write(str(made.conf), kept)
        made.reconfigure(lambda now: replace(member(now, 2, enabled=False), deadline=7.0))
        gone(made, 2)
        assert app.random(session)[0] == OK


def test_a_file_that_others_may_write_to_is_not_believed_until_that_is_mended(group: Group) -> None:
    made = made_of(group)
    before = config.load(str(made.conf))
    after = replace(before, groups=(member(before.groups[0], 0, role=Role.STANDBY),))
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        made.conf.parent.chmod(0o777)
        made.conf.write_text(config_write.render(after))
        logged(made, "lies in a directory that is writable by others")
        assert "standby" not in made.logged()
        assert app.random(session)[0] == OK
        made.conf.parent.chmod(0o755)  # the file itself does not change
        logged(made, f"member {LABEL}-0 is a standby member now")
