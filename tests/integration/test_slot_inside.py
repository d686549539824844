"""`isolation = "none"`: members' modules inside the application, one module for several members and groups."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cli import config_write
from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings
from pyha.runtime import config
from tests.client import aes_key, client, ec_pair, helpers
from tests.integration.conftest import TestGroup

Group = Callable[..., TestGroup]
OK = ck.CKR_OK


@pytest.fixture
def made(group: Group) -> TestGroup:
    return group(label="inside", isolation="none")


def environment(made: TestGroup) -> dict[str, str]:
    """A module inside the process sees the process's environment; a member's own is for its helper."""
    return {**made.environment, **made.tokens[0].environment}


def test_the_same_work_without_helpers(made: TestGroup) -> None:
    with client(made.module, environment(made)) as app:
        slot = app.slot_of("inside")
        session = app.logged_in(slot)
        _, private = ec_pair(app, session)
        key = aes_key(app, session)
        assert not helpers("inside")
        for _ in range(6):
            rv, signature = app.sign(session, ck.CKM_ECDSA, private, bytes(32))
            assert rv == OK
            assert len(signature) == 64
        (public,) = app.find(session, {ck.CKA_LABEL: b"ec", ck.CKA_CLASS: ck.CKO_PUBLIC_KEY})[1]
        assert app.start("Verify", session, ck.CKM_ECDSA, public) == OK
        assert app.verify(session, bytes(32), signature) == OK
        assert app.start("Encrypt", session, (ck.CKM_AES_CBC_PAD, bytes(16)), key) == OK
        parts = [app.out("EncryptUpdate", session, bytes(20))[2], app.out("EncryptFinal", session)[2]]
        assert len(b"".join(parts)) == 32
        assert app.random(session)[0] == OK
        assert app.logout(session) == OK
        assert app.find(session, {ck.CKA_LABEL: b"aes"}) == (OK, [])
        assert app.finalize() == OK
    for index in range(3):
        with made.member(index) as member:
            assert len(member.find({ck.CKA_LABEL: b"ec"})) == 2


def test_initialised_anew_as_often_as_the_application_likes(made: TestGroup) -> None:
    with client(made.module, environment(made), initialize=False) as app:
        for _ in range(3):
            assert app.initialize() == OK
            session = app.logged_in(app.slot_of("inside"))
            assert app.random(session)[0] == OK
            assert app.state(session)[1] == ck.CKS_RW_USER_FUNCTIONS
            assert app.finalize() == OK


def test_finalized_while_the_monitor_is_inside(group: Group) -> None:
    """After a login it compares the members; SoftHSM does not live through a C_Finalize under that."""
    made = group(label="inside", isolation="none", members=2, recovery=RecoverySettings(RecoveryMode.BACKGROUND))
    with client(made.module, environment(made)) as app:
        session = app.logged_in(app.slot_of("inside"))
        for number in range(12):
            ec_pair(app, session, b"ec %d" % number)
    probe = """
import random, sys, time
sys.path.insert(0, sys.argv[1])
from tests.client import Client
app = Client(sys.argv[2])
for _ in range(50):
    assert app.initialize() == 0
    assert app.random(app.logged_in(app.slot_of("inside")))[0] == 0
    time.sleep(random.random() * 0.1)  # anywhere in its work
    assert app.finalize() == 0
"""
    arguments = [sys.executable, "-c", probe, os.getcwd(), made.module]
    done = subprocess.run(
        arguments, env={**os.environ, **environment(made)}, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_that_the_application_initialised_itself_stays_initialised(made: TestGroup) -> None:
    """As GnuTLS or p11-kit do: plain SoftHSM beside us in the same process."""
    probe = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.client import Client
from tests.softhsm import MODULE
plain, ours = Client(MODULE), Client(sys.argv[2])
assert plain.initialize(flags=2) == 0
own = plain.open(plain.slot_of(sys.argv[3]))[1]
assert ours.initialize() == 0
session = ours.open(ours.slot_of("inside"))[1]
assert ours.random(session)[0] == 0
assert ours.close(session) == 0
assert plain.random(own)[0] == 0, "its session was closed with ours"
assert ours.finalize() == 0
assert plain.random(own)[0] == 0, "it was finalized under its owner, or lost its sessions"
assert plain.finalize() == 0
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", probe, root, made.module, made.tokens[2].label],
        env={**os.environ, **environment(made)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_member_that_goes_does_not_take_the_module_from_the_others(made: TestGroup) -> None:
    """One of the tokens is not there: its connection ends while the module serves the other members."""
    text = made.conf.read_text()
    assert made.tokens[1].label in text
    made.conf.write_text(
        text.replace(f"token={made.tokens[1].label}", "token=nowhere").replace(
            f"serial={made.tokens[1].serial}", "serial=0"
        )
    )
    with client(made.module, environment(made)) as app:
        session = app.logged_in(app.slot_of("inside"))
        _, private = ec_pair(app, session)
        for _ in range(4):
            assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
    assert "its token is not among the module's tokens" in made.logged()


def test_own_slots_share_the_module(made: TestGroup) -> None:
    before = config.load(str(made.conf))
    config_write.write(str(made.conf), config_write.render(replace(before, ha_only=False)))
    with client(made.module, environment(made)) as app:
        slots = app.slots()[1]
        assert len(slots) == 4
        for slot in slots:
            session = app.open(slot)[1]
            assert app.random(session)[0] == OK
        assert app.finalize() == OK
        assert app.initialize() == OK
        assert app.random(app.open(slots[3])[1])[0] == OK
