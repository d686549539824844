"""Session objects that are on several members, at once or one after the other: used together, in operations of several
parts, changed, destroyed, and gone with their login or their session."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyha.cli import config_write
from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings
from pyha.runtime import config
from pyha.runtime.settings import LogLevel
from tests.chaos import LIMIT
from tests.client import Client, client, helpers
from tests.faults import Fault, Faulty
from tests.integration.conftest import TestGroup

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
LABEL = f"moving-{os.getpid()}"
BLOCK = bytes(range(16))
AES = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_ENCRYPT: True, ck.CKA_DECRYPT: True}
SEALED = {ck.CKA_SENSITIVE: True, ck.CKA_EXTRACTABLE: False}
LEAVES = {ck.CKA_SENSITIVE: True, ck.CKA_EXTRACTABLE: True}


class Stage:
    """An application of a group whose lost members return at once, each behind a plan of faults."""

    def __init__(self, made: TestGroup, faulty: Faulty, app: Client) -> None:
        self.made, self.faulty, self.app = made, faulty, app
        self.slot = app.slot_of(made.label)
        self.session = app.logged_in(self.slot)

    def kill(self, index: int) -> None:
        """A member's helper ends, and the application has noticed."""
        token = self.made.tokens[index]
        name = token.label
        lost, returned = (self.made.logged().count(f"member {name} {what}") for what in ("lost", "returned"))
        token.strike(helpers(self.made.label)[name], signal.SIGKILL)
        self.until(f"member {name} lost", lost + 1)
        self._returned = f"member {name} returned", returned + 1

    def wait_for_return(self) -> None:
        """The member that was killed last serves again."""
        self.until(*self._returned)

    def until(self, line: str, times: int) -> None:
        """Random bytes are asked for until the log has this line so often."""
        end = time.monotonic() + LIMIT
        while self.made.logged().count(line) < times:
            assert self.app.random(self.session)[0] == OK
            assert time.monotonic() < end, line

    def key(self, asked: dict[int, Any], session: int | None = None) -> int:
        """A session key of a known value."""
        rv, key = self.app.create(session or self.session, {**AES, **asked, ck.CKA_VALUE: bytes(range(32))})
        assert rv == OK
        return key

    def encrypts(self, key: int, session: int | None = None) -> tuple[int, bytes]:
        """A block under a key: CK_RV and the result."""
        of = session or self.session
        rv = self.app.start("Encrypt", of, ck.CKM_AES_ECB, key)
        if rv != OK:
            return rv, b""
        rv, _, result = self.app.out("Encrypt", of, BLOCK)
        return rv, result

    def in_session(self) -> list[int]:
        """The session objects that a search finds."""
        rv, found = self.app.find(self.session, {ck.CKA_TOKEN: False})
        assert rv == OK
        return sorted(found)


AT_ONCE = RecoverySettings(RecoveryMode.BACKGROUND, interval=0.05, attempts=-1)


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the faulty module is, which need not be compiled for each test, and its plans."""
    return tmp_path_factory.mktemp("plans")


@pytest.fixture
def stage(group: Group, plans: Path) -> Iterator[Stage]:
    made = group(label=LABEL, recovery=AT_ONCE)
    written = replace(config.load(str(made.conf)), log_level=LogLevel.NOTICE)
    config_write.write(str(made.conf), config_write.render(written))
    faulty = Faulty(made, plans)
    faulty.clear()
    with client(made.module, made.environment) as app:
        yield Stage(made, faulty, app)


def test_two_keys_of_different_members_in_one_call(stage: Stage) -> None:
    app, session = stage.app, stage.session
    stage.kill(0)
    there = stage.key(LEAVES)
    stage.wait_for_return()
    rv, here = app.create(session, {**AES, **SEALED, ck.CKA_WRAP: True, ck.CKA_UNWRAP: True, ck.CKA_VALUE: bytes(16)})
    assert rv == OK
    rv, blob = app.wrap(session, ck.CKM_AES_KEY_WRAP, here, there)
    assert (rv, len(blob)) == (OK, 40)
    rv, again = app.unwrap(session, ck.CKM_AES_KEY_WRAP, here, blob, AES)
    assert rv == OK
    assert stage.encrypts(again) == stage.encrypts(there)
    assert stage.in_session() == sorted([there, here, again])
    assert app.destroy(session, there) == OK
    assert stage.in_session() == sorted([here, again])
    assert stage.encrypts(there)[0] == ck.CKR_KEY_HANDLE_INVALID


@pytest.mark.parametrize("asked", [SEALED, LEAVES], ids=["sealed", "leaves"])
def test_an_operation_of_several_parts_while_members_die(stage: Stage, asked: dict[int, Any]) -> None:
    app, session = stage.app, stage.session
    key = stage.key(asked)
    data = os.urandom(1000)
    mechanism = (ck.CKM_AES_CBC_PAD, bytes(16))
    assert app.start("Encrypt", session, mechanism, key) == OK
    whole = app.out("Encrypt", session, data)[2]
    assert app.start("Encrypt", session, mechanism, key) == OK
    parts = [app.out("EncryptUpdate", session, data[:500])[2]]
    for victim, more in ((0, data[500:700]), (1, data[700:])):
        os.kill(helpers(LABEL)[stage.made.tokens[victim].label], signal.SIGKILL)
        parts.append(app.out("EncryptUpdate", session, more)[2])
    parts.append(app.out("EncryptFinal", session)[2])
    assert b"".join(parts) == whole


def test_what_was_changed_is_changed_on_the_next_member(stage: Stage) -> None:
    app, session = stage.app, stage.session
    keys = [stage.key(SEALED), stage.key(LEAVES), stage.key(LEAVES)]
    assert app.set(session, keys[0], {ck.CKA_LABEL: b"renamed", ck.CKA_DECRYPT: False}) == OK
    assert app.set(session, keys[1], {ck.CKA_EXTRACTABLE: False}) == OK
    # The first of the two is set before the other is refused.
    assert app.set(session, keys[2], {ck.CKA_LABEL: b"half", ck.CKA_CLASS: 3}) != OK
    _, data = app.create(session, {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_VALUE: b"value"})
    assert app.set(session, data, {ck.CKA_LABEL: b"after"}) == OK
    read = (ck.CKA_LABEL, ck.CKA_DECRYPT, ck.CKA_EXTRACTABLE, ck.CKA_SENSITIVE)
    before = [[app.get(session, key, each) for each in read] for key in keys]
    assert before[1][2:] == [(OK, b"\0"), (OK, b"\1")]
    stage.kill(0)
    assert [[app.get(session, key, each) for each in read] for key in keys] == before
    assert [app.get(session, data, each) for each in (ck.CKA_VALUE, ck.CKA_LABEL)] == [(OK, b"value"), (OK, b"after")]
    assert {stage.encrypts(key) for key in keys} == {stage.encrypts(keys[0])}
    assert stage.encrypts(keys[0])[0] == OK


def test_what_was_set_of_a_refused_change_and_cannot_be_read_is_not_forgotten(stage: Stage) -> None:
    """The first of the two is set before the other is refused: a key without it would be weaker."""
    app, session = stage.app, stage.session
    key = stage.key(LEAVES)
    stage.faulty.everywhere("C_GetAttributeValue", Fault.ALWAYS, ck.CKR_FUNCTION_FAILED)
    assert app.set(session, key, {ck.CKA_DECRYPT: False, ck.CKA_CLASS: 3}) != OK
    stage.faulty.clear()
    assert app.get(session, key, ck.CKA_DECRYPT) == (OK, b"\0")
    stage.kill(0)
    assert app.get(session, key, ck.CKA_DECRYPT) in [(OK, b"\0"), (ck.CKR_OBJECT_HANDLE_INVALID, b"")]


def two_keys(stage: Stage) -> tuple[int, int]:
    """Of different members, and one of them is on both by now."""
    stage.kill(0)
    there = stage.key(LEAVES)
    stage.wait_for_return()
    here = stage.key({**SEALED, ck.CKA_WRAP: True})
    assert stage.app.wrap(stage.session, ck.CKM_AES_KEY_WRAP, here, there)[0] == OK
    return there, here


def test_a_change_that_the_member_only_says_to_have_made_is_none(stage: Stage) -> None:
    app, session = stage.app, stage.session
    key = stage.key({**LEAVES, ck.CKA_LABEL: b"it"})
    for asked in ({ck.CKA_LABEL: b"new"}, {ck.CKA_LABEL: b"new", ck.CKA_DECRYPT: False}):
        stage.faulty.everywhere("C_SetAttributeValue", Fault.ALWAYS, OK)
        assert app.set(session, key, asked) == ck.CKR_FUNCTION_FAILED
        stage.faulty.clear()
    assert app.find(session, {ck.CKA_LABEL: b"it", ck.CKA_DECRYPT: True}) == (OK, [key])
    # As it is, and not as it was asked for, it comes to another member.
    stage.kill(0)
    assert app.find(session, {ck.CKA_LABEL: b"it", ck.CKA_DECRYPT: True}) == (OK, [key])
    assert app.set(session, key, {ck.CKA_LABEL: b"new"}) == OK
    assert app.get(session, key, ck.CKA_LABEL) == (OK, b"new")


@pytest.mark.parametrize("liar", [0, 1])
def test_of_two_members_one_only_says_to_have_changed_it(stage: Stage, liar: int) -> None:
    app, session = stage.app, stage.session
    there, here = two_keys(stage)
    stage.faulty.plan(liar, "C_SetAttributeValue", Fault.ALWAYS, OK)
    said = {key: app.set(session, key, {ck.CKA_LABEL: b"renamed"}) for key in (there, here)}
    stage.faulty.clear()
    assert sorted(said.values()) == [OK, ck.CKR_FUNCTION_FAILED]
    renamed = [key for key, rv in said.items() if rv == OK]
    for victim in (0, 1):
        assert app.find(session, {ck.CKA_LABEL: b"renamed"}) == (OK, renamed)
        stage.kill(victim)
        assert app.find(session, {ck.CKA_LABEL: b"renamed"}) == (OK, renamed)
        stage.wait_for_return()


def test_changes_reach_every_member_that_has_it(stage: Stage) -> None:
    app, session = stage.app, stage.session
    there, here = two_keys(stage)
    for key in (there, here):
        assert app.set(session, key, {ck.CKA_LABEL: b"renamed"}) == OK
    for victim in (0, 1):
        stage.kill(victim)
        assert sorted(app.find(session, {ck.CKA_LABEL: b"renamed"})[1]) == sorted([there, here])
        assert app.get(session, here, ck.CKA_LABEL) == app.get(session, there, ck.CKA_LABEL) == (OK, b"renamed")
        stage.wait_for_return()


def test_logout_ends_private_objects_and_leaves_public_ones(stage: Stage) -> None:
    app, session = stage.app, stage.session
    private, public = stage.key({**SEALED, ck.CKA_PRIVATE: True}), stage.key({**SEALED, ck.CKA_PRIVATE: False})
    _, data = app.create(session, {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_VALUE: b"x", ck.CKA_PRIVATE: False})
    stage.kill(0)
    assert stage.encrypts(private) == stage.encrypts(public)
    expected = stage.encrypts(public)
    assert app.logout(session) == OK
    assert stage.in_session() == sorted([public, data])
    assert stage.encrypts(public) == expected
    assert stage.encrypts(private)[0] == ck.CKR_KEY_HANDLE_INVALID
    assert app.login(session, "1234") == OK
    assert stage.encrypts(private)[0] == ck.CKR_KEY_HANDLE_INVALID
    assert stage.encrypts(public) == expected


def test_a_session_s_objects_end_with_it_wherever_they_are(stage: Stage) -> None:
    app = stage.app
    other = app.open(stage.slot)[1]
    key = stage.key(SEALED, other)
    stage.kill(0)
    assert stage.encrypts(key)[0] == OK  # used on another session than its own
    stage.wait_for_return()
    rest = stage.key(LEAVES)
    assert app.close(other) == OK
    assert stage.encrypts(key)[0] == ck.CKR_KEY_HANDLE_INVALID
    assert stage.in_session() == [rest]
    for victim in (0, 1):
        stage.kill(victim)
        assert stage.in_session() == [rest]
        stage.wait_for_return()


def test_many_threads_and_sessions_use_one_key_while_members_die(stage: Stage) -> None:
    app = stage.app
    key = stage.key(SEALED)
    expected = stage.encrypts(key)
    sessions = [app.open(stage.slot)[1] for _ in range(8)]

    def work(own: int) -> set[tuple[int, bytes]]:
        return {stage.encrypts(key, own) for _ in range(40)}

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(work, own) for own in sessions]
        stage.kill(0)
        stage.wait_for_return()
        stage.kill(1)
        answers = [each.result() for each in running]
    assert answers == [{expected}] * 8
    assert stage.in_session() == [key]


def test_a_key_that_a_member_refuses_to_make_in_our_way_is_made_in_the_application_s(stage: Stage) -> None:
    stage.key({})
    stage.faulty.plan(0, "C_CreateObject", Fault.ANSWER, ck.CKR_TEMPLATE_INCONSISTENT)
    key = stage.key({})
    assert stage.app.get(stage.session, key, ck.CKA_EXTRACTABLE) == (OK, b"\0")
    expected = stage.encrypts(key)
    stage.faulty.plan(0, "C_SetAttributeValue", Fault.ANSWER, ck.CKR_ATTRIBUTE_READ_ONLY)
    other = stage.key({})
    assert stage.app.get(stage.session, other, ck.CKA_EXTRACTABLE) == (OK, b"\0")
    assert len(stage.in_session()) == 3
    stage.kill(0)
    assert stage.encrypts(other) == expected
    assert stage.encrypts(key)[0] == ck.CKR_KEY_HANDLE_INVALID


@pytest.mark.parametrize("fault", [Fault.CRASH, Fault.ANSWER])
@pytest.mark.parametrize("function", ["C_GetAttributeValue", "C_WrapKey", "C_SetAttributeValue"])
def test_a_member_is_lost_while_a_key_is_made(stage: Stage, function: str, fault: Fault) -> None:
    stage.key({})
    stage.faulty.plan(0, function, fault, ck.CKR_DEVICE_REMOVED)
    key = stage.key({})
    assert stage.app.get(stage.session, key, ck.CKA_EXTRACTABLE) == (OK, b"\0")
    assert stage.encrypts(key)[0] == OK
    assert len(stage.in_session()) == 2


@pytest.mark.parametrize("fault", [Fault.SESSIONS, Fault.LOGOUT])
def test_dropped_sessions_and_logins_cost_no_session_key(stage: Stage, fault: Fault) -> None:
    keys = [stage.key(SEALED), stage.key(LEAVES)]
    expected = [stage.encrypts(key) for key in keys]
    for function in ("C_EncryptInit", "C_Encrypt"):
        stage.faulty.plan(0, function, fault)
        assert [stage.encrypts(key) for key in keys] == expected
        assert stage.in_session() == sorted(keys)


_IMPORTS = """
import ctypes, os, sys
from pyha.cryptoki import constants as ck
from tests.client import Client, Word

value = (ctypes.c_ubyte * 32)()

def attribute(kind, content):
    return (kind, ctypes.addressof(content), ctypes.sizeof(content))

def said(word):
    print(word, flush=True)
    return sys.stdin.buffer.raw.read(1)

app = Client(sys.argv[1])
assert app.initialize() == 0
session = app.logged_in(app.slot_of(sys.argv[2]))
secret, aes, yes, no = Word(ck.CKO_SECRET_KEY), Word(ck.CKK_AES), ctypes.c_ubyte(1), ctypes.c_ubyte(0)
said("ready")
os.readv(0, [value])  # straight to where it is wiped afterwards
keys = []
for leaves in (yes, no):
    words = []
    for each in (
        attribute(ck.CKA_CLASS, secret),
        attribute(ck.CKA_KEY_TYPE, aes),
        attribute(ck.CKA_ENCRYPT, yes),
        attribute(ck.CKA_EXTRACTABLE, leaves),
        attribute(ck.CKA_VALUE, value),
    ):
        words += each
    handle = Word()
    assert app.call("C_CreateObject", session, (Word * len(words))(*words), len(words) // 3, ctypes.byref(handle)) == 0
    keys.append(handle.value)
    assert app.start("Encrypt", session, ck.CKM_AES_ECB, handle.value) == 0
    assert app.out("Encrypt", session, bytes(16))[0] == 0
said("made")
ctypes.memset(value, 0, 32)
said("wiped")
for key in keys:
    assert app.start("Encrypt", session, ck.CKM_AES_ECB, key) == 0
    assert app.out("Encrypt", session, bytes(16))[0] == 0
said("carried")
os._exit(0)
"""


def occurrences(pid: int, value: bytes) -> int:
    """How often a half of the value is in a process's writable memory."""
    found = 0
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            area, rights = line.split()[:2]
            start, end = (int(each, 16) for each in area.split("-"))
            if "w" in rights:
                memory.seek(start)
                content = memory.read(end - start)
                found += content.count(value[:16]) + content.count(value[16:])
    return found


def test_no_value_stays_in_the_application(group: Group) -> None:
    made = group(label="nothing")
    value = os.urandom(32)
    environment = {**os.environ, **made.environment}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_IMPORTS), made.module, made.label],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as app:
        assert app.stdin is not None
        assert app.stdout is not None
        seen = {}

        def go(word: bytes, answer: bytes) -> None:
            assert app.stdout is not None
            assert app.stdin is not None
            assert app.stdout.readline() == word + b"\n"
            seen[word] = occurrences(app.pid, value)
            if word == b"wiped":
                os.kill(helpers(made.label)[made.tokens[0].label], signal.SIGKILL)
            app.stdin.write(answer)

        go(b"ready", b".")
        app.stdin.write(value)
        go(b"made", b".")
        go(b"wiped", b".")
        go(b"carried", b".")
        assert app.wait() == 0
    assert seen[b"made"] == 2, "the application's own"
    assert (seen[b"wiped"], seen[b"carried"]) == (0, 0)


def test_a_search_leaves_out_none_though_a_member_forgets(stage: Stage) -> None:
    forgets = (Fault.SESSIONS, Fault.LOGOUT)
    for index, fault in ((1, Fault.ANSWER), *((index, fault) for index in (0, 1) for fault in forgets)):
        stage.kill(0)
        there = stage.key(LEAVES)
        stage.wait_for_return()
        here = stage.key(LEAVES)
        stage.faulty.plan(index, "C_FindObjectsInit", fault, ck.CKR_FUNCTION_FAILED)
        assert stage.in_session() == sorted([there, here]), (index, fault)
        assert not stage.faulty.waiting()
        assert stage.encrypts(there) == stage.encrypts(here)
        assert [stage.app.destroy(stage.session, each) for each in (there, here)] == [OK, OK]


def test_a_search_that_cannot_be_whole_fails(stage: Stage) -> None:
    stage.kill(0)
    there, stays = stage.key(LEAVES), stage.key({**LEAVES, ck.CKA_WRAP_WITH_TRUSTED: True, ck.CKA_LABEL: b"stays"})
    stage.wait_for_return()
    stage.faulty.plan(1, "C_FindObjectsInit", Fault.ALWAYS, ck.CKR_FUNCTION_FAILED)
    assert stage.app.find(stage.session, {ck.CKA_TOKEN: False})[0] == ck.CKR_DEVICE_ERROR
    assert stage.app.find(stage.session, {ck.CKA_TOKEN: True}) == (OK, [])
    assert stage.app.find(stage.session, {ck.CKA_LABEL: b""}) == (OK, [there]), "what could be brought was"
    stage.faulty.clear()
    assert stage.in_session() == sorted([there, stays])
