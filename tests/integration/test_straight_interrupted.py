"""Straight calls cut short from outside: by the end of their module's run, or by an exception of the application."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread

from pyha.cli import chaos_plan
from pyha.cryptoki import constants as ck
from tests.chaos import Plan
from tests.client import client
from tests.integration.conftest import TestGroup

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
LABEL = f"interrupted-{os.getpid()}"


def test_a_call_of_a_run_that_is_over_costs_the_next_run_no_member(group: Group, tmp_path: Path) -> None:
    """A module inside the application may stay in a call for longer than C_Finalize waits, and fail afterwards."""
    made = group(members=1, label=LABEL, isolation="none")
    plan = Plan(tmp_path / "plan")
    made.put_module(0, chaos_plan.chaos_module(), {})
    environment = {**made.environment, **made.tokens[0].environment, **plan.environment}
    with client(made.module, environment) as app:
        slot = app.slot_of(LABEL)
        session = app.logged_in(slot)
        for _ in range(3):
            assert app.random(session)[0] == OK
        plan.set("C_GenerateRandom once -> hang", "C_GenerateRandom once -> answer-after CKR_DEVICE_REMOVED")
        answers: list[int] = []
        caller = Thread(target=lambda: answers.append(app.random(session)[0]))
        caller.start()
        plan.wait_for("C_GenerateRandom")
        assert app.finalize() == OK
        assert app.initialize() == OK
        assert app.logged_in(slot) == session
        plan.release()
        caller.join()
        assert answers == [ck.CKR_CRYPTOKI_NOT_INITIALIZED]
        assert " lost: " not in made.logged()
        assert app.random(session)[0] == OK


INTERRUPTED = """
import signal, sys
sys.path.insert(0, sys.argv[1])
from pyha.cryptoki import constants as ck
from tests.client import Client, aes_key

class Late(Exception):
    pass

def late(number, frame):
    raise Late

def cut_short(call):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        call()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Late:
        pass

app = Client(sys.argv[2])
assert app.initialize() == 0
session = app.logged_in(app.slot_of(sys.argv[3]))
key = aes_key(app, session)
for _ in range(3):
    assert app.random(session)[0] == 0
    assert app.sign(session, ck.CKM_AES_CMAC, key, b"data")[0] == 0
signal.signal(signal.SIGALRM, late)
for _ in range(4):
    cut_short(lambda: app.random(session)[0])
    cut_short(lambda: app.start("Sign", session, ck.CKM_AES_CMAC, key))
    cut_short(lambda: app.out("Sign", session, b"data")[0])
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(app.random(session)[0], app.sign(session, ck.CKM_AES_CMAC, key, b"data")[0])
"""


def test_an_application_that_raises_out_of_a_signal_keeps_its_places(group: Group, tmp_path: Path) -> None:
    """A Python program's own handler, a time-out say, runs inside of the call."""
    made = group(members=1, label=LABEL)
    made.reconfigure(lambda settings: replace(settings, max_in_flight=2, deadline=3.0))
    plan = Plan(tmp_path / "plan")
    made.put_module(0, chaos_plan.chaos_module(), plan.environment)
    plan.set(*(f"C_{name} from=4 -> delay 20" for name in ("GenerateRandom", "SignInit", "Sign")))
    arguments = [sys.executable, "-c", INTERRUPTED, os.getcwd(), made.module, LABEL]
    done = subprocess.run(
        arguments, env={**os.environ, **made.environment}, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 0\n", "")
