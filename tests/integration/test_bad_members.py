"""A member that fails, hangs, crashes or lies from its first call on: named, contained, and back once it is well."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings
from tests.chaos import behind_chaos
from tests.client import client, ec_pair
from tests.integration.conftest import TestGroup
from tests.integration.test_failover import point_of, verifies

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
LABEL = f"bad-{os.getpid()}"
LONGEST = 60.0
"""Seconds after which a test stops waiting for what does not happen."""

BAD = {
    "C_Initialize fails": ("C_Initialize -> answer CKR_GENERAL_ERROR", "C_Initialize answered CKR_GENERAL_ERROR"),
    "C_Initialize hangs": ("C_Initialize -> hang", "C_Initialize did not return within its deadline"),
    "C_Initialize crashes": ("C_Initialize -> crash", "its helper crashed in C_Initialize"),
    "C_Initialize exits": ("C_Initialize -> exit 0", "its helper crashed in C_Initialize"),
    "another token": ('C_GetTokenInfo -> write 80 "not mine at all!"', "its token is not among the module's tokens"),
    "no token": ("C_GetSlotList -> length 0", "its token is not among the module's tokens"),
    "more slots than can be": ("C_GetSlotList -> length 99999999", "C_GetSlotList answered CKR_DEVICE_ERROR"),
    "a session of handle 0": ("C_OpenSession -> write 0 hex:0000000000000000", ""),
}
"""What the member does -> the plan, and what the log says of it; empty where more than one thing is right to say."""


@pytest.mark.parametrize("what", list(BAD))
def test_a_member_that_is_bad_from_the_start(group: Group, tmp_path: Path, what: str) -> None:
    plan_line, said = BAD[what]
    made = group(label=LABEL, recovery=RecoverySettings(RecoveryMode.BACKGROUND, interval=0.2, attempts=-1))
    made.reconfigure(lambda settings: replace(settings, deadline=1.0))
    plan, *_ = behind_chaos(made, tmp_path)
    plan.set(plan_line)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        assert f"member {made.tokens[0].label} lost: {said}" in made.logged()
        public, private = ec_pair(app, session)
        for _ in range(6):
            assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
        assert sorted(app.find(session, {ck.CKA_LABEL: b"ec"})[1]) == sorted([public, private])
        plan.set()
        end = time.monotonic() + LONGEST
        while len(labelled(made)) < 2:
            assert time.monotonic() < end, made.logged()
            time.sleep(0.05)  # its token is another process's: there is no event to wait for
        assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
        assert app.finalize() == OK


NONSENSE = {
    "an attribute": "C_GetAttributeValue -> length 99999999",
    "a search": "C_FindObjects -> length 100000",
    "a handle of 0": "C_FindObjects -> write 0 hex:0000000000000000",
    "a signature": "C_Sign -> length 99999999",
}


@pytest.mark.parametrize("what", list(NONSENSE))
def test_an_impossible_answer_is_named_and_the_call_goes_elsewhere(group: Group, tmp_path: Path, what: str) -> None:
    made = group(label=LABEL)
    plans = behind_chaos(made, tmp_path)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        public, private = ec_pair(app, session)
        key = point_of(app, session, public)
        for plan in plans[:2]:
            plan.set(NONSENSE[what])
        for _ in range(3):
            assert app.get(session, private, ck.CKA_LABEL) == (OK, b"ec")
            assert sorted(app.find(session, {ck.CKA_LABEL: b"ec"})[1]) == sorted([public, private])
            rv, signature = app.sign(session, ck.CKM_ECDSA, private, bytes(32))
            assert rv == OK
            assert verifies(key, signature, bytes(32))
        assert all(plan.fired() for plan in plans[:2])
    for token in made.tokens[:2]:
        assert made.logged().count(f"member {token.label} answered C_") == 1
    assert " lost: " not in made.logged()


def labelled(made: TestGroup) -> list[int]:
    """The objects that the member which was bad has got meanwhile."""
    with made.member(0) as token:
        return token.find({ck.CKA_LABEL: b"ec"})
