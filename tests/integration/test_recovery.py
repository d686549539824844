"""Lost members come back by themselves, and only as what they were (SEMANTICS.md section 4)."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cli import config_write
from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings, Role
from pyha.runtime import config
from pyha.runtime.settings import LogLevel
from tests.chaos import behind_chaos
from tests.client import Client, aes_key, all_helpers, client, ec_pair, helpers, wait_for_end
from tests.faults import Fault, Faulty
from tests.integration.conftest import TestGroup
from tests.native_tools import NATIVE, compile_c
from tests.softhsm import MODULE

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
LABEL = f"recovery-{os.getpid()}"
AT_ONCE = RecoverySettings(RecoveryMode.BACKGROUND, interval=0.2, attempts=-1)
LONGEST = 60.0
"""Seconds after which a test stops waiting for what does not happen."""


def recovering(group: Group, recovery: RecoverySettings = AT_ONCE) -> TestGroup:
    made = group(label=LABEL, recovery=recovery)
    written = replace(config.load(str(made.conf)), log_level=LogLevel.NOTICE)
    config_write.write(str(made.conf), config_write.render(written))
    return made


def kill(made: TestGroup, *indices: int) -> None:
    here = helpers(made.label)
    for index in indices:
        token = made.tokens[index]
        token.strike(here[token.label], signal.SIGKILL)


def until(made: TestGroup, text: str, app: Client | None = None, session: int = 0) -> None:
    """Wait for a line of the log, with an application that works meanwhile or does nothing."""
    end = time.monotonic() + LONGEST
    while text not in made.logged():
        assert time.monotonic() < end, made.logged()
        if app is not None:
            assert app.random(session)[0] == OK
        else:
            time.sleep(0.01)  # the log is a file of another process: there is no event to wait for


def test_a_killed_member_returns_to_an_application_that_works(group: Group) -> None:
    made = recovering(group)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        _, private = ec_pair(app, session)
        for victim in range(3):
            kill(made, victim)
            name = made.tokens[victim].label
            # At the level that is the default: who reads of the loss reads of its end.
            until(made, f'warning: group "{LABEL}": member {name} returned', app, session)
            assert len(helpers(LABEL)) == 3
            assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
        # Each is a whole member again: any of them serves alone.
        kill(made, 0, 1)
        assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK


def test_all_members_are_lost_and_the_same_sessions_and_handles_work_again(group: Group, tmp_path: Path) -> None:
    made = recovering(group)
    faulty = Faulty(made, tmp_path)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        public, private = ec_pair(app, session)
        faulty.everywhere("C_Initialize", Fault.ALWAYS, ck.CKR_DEVICE_ERROR)
        kill(made, 0, 1, 2)
        assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == ck.CKR_DEVICE_ERROR
        assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == ck.CKR_TOKEN_NOT_PRESENT
        assert made.logged().count(f'error: group "{LABEL}": no member is left') == 1
        faulty.clear()
        until(made, "serves unsynchronised")
        assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
        assert app.state(session) == (OK, ck.CKS_RW_USER_FUNCTIONS)
        assert sorted(app.find(session, {ck.CKA_LABEL: b"ec"})[1]) == sorted([public, private])


def test_a_login_that_is_under_way_when_the_application_ends_comes_to_its_own_end(group: Group, tmp_path: Path) -> None:
    """SoftHSM rewrites its token's file in C_Login: whoever is killed in between has lost the token."""
    made = recovering(group)
    plan = behind_chaos(made, tmp_path)[0]
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        plan.set("C_Login -> delay 300")
        kill(made, 0)
        until(made, f"member {LABEL}-0 lost", app, session)
        plan.wait_for("C_Login")
        written = [file.stat().st_mtime_ns for file in made.tokens[0].conf.parent.glob("tokens/*/token.object")]
        assert app.finalize() == OK
        wait_for_end(all_helpers(LABEL))
        after = [file.stat().st_mtime_ns for file in made.tokens[0].conf.parent.glob("tokens/*/token.object")]
        assert len(written) > 0
        assert written != after


def test_who_cannot_say_which_tries_its_pin_has_is_tried_again(group: Group, tmp_path: Path) -> None:
    """It fails between its connection and its login: no PIN was refused."""
    made = recovering(group)
    plan = behind_chaos(made, tmp_path)[0]
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        plan.set("C_OpenSession -> hang")
        kill(made, 0)
        until(made, f"member {LABEL}-0 lost", app, session)
        plan.wait_for("C_OpenSession")
        plan.set("C_GetTokenInfo -> answer CKR_DEVICE_REMOVED")
        until(made, f"member {LABEL}-0 stays out")
        plan.set()
        until(made, f"member {LABEL}-0 returned")


def test_a_helper_that_starts_when_the_application_ends_does_nothing_to_its_token(group: Group, tmp_path: Path) -> None:
    made = recovering(group)
    module = compile_c(NATIVE / "slow_start.c", tmp_path / "slow.so", "-I/usr/include/p11-kit-1", "-shared", "-fPIC")
    gate = tmp_path / "gate"
    made.put_module(0, str(module), {"SLOW_START": str(gate)})
    store = made.tokens[0].conf.parent / "tokens"
    with client(made.module, made.environment) as app:
        app.logged_in(app.slot_of(LABEL))
        os.mkfifo(gate)
        kill(made, 0)
        with gate.open("wb"):  # opens when the new helper has
            assert app.finalize() == OK
            before = {file: file.stat().st_mtime_ns for file in store.glob("*/*")}
        wait_for_end(all_helpers(LABEL))
        assert {file: file.stat().st_mtime_ns for file in store.glob("*/*")} == before


def test_on_call_the_attempt_is_made_inside_the_next_call(group: Group) -> None:
    made = recovering(group, RecoverySettings(RecoveryMode.ON_CALL, interval=0.001, attempts=-1))
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        kill(made, 0)
        while "lost" not in made.logged():
            assert app.random(session)[0] == OK
        assert app.random(session)[0] == OK
        assert f"member {LABEL}-0 returned" in made.logged()
        assert len(helpers(LABEL)) == 3


def test_on_call_an_application_that_has_no_session_yet_gets_one(group: Group, tmp_path: Path) -> None:
    made = recovering(group, RecoverySettings(RecoveryMode.ON_CALL, interval=0.001, attempts=-1))
    faulty = Faulty(made, tmp_path)
    faulty.everywhere("C_Initialize", Fault.ALWAYS, ck.CKR_DEVICE_ERROR)
    with client(made.module, made.environment) as app:
        slot = app.slot_of(LABEL)
        assert app.open(slot)[0] == ck.CKR_DEVICE_ERROR
        assert app.open(slot)[0] == ck.CKR_TOKEN_NOT_PRESENT
        faulty.clear()
        session = app.logged_in(slot)
        kill(made, 0)
        while made.logged().count(f"member {LABEL}-0 lost") < 2:
            assert app.random(session)[0] == OK
        assert app.open(slot)[0] == OK
        assert made.logged().count(f"member {LABEL}-0 returned") == 1
        assert len(helpers(LABEL)) == 3


def test_an_application_without_threads_recovers_on_call(group: Group) -> None:
    made = recovering(group)
    with client(made.module, made.environment, initialize=False) as app:
        assert app.initialize(ck.CKF_LIBRARY_CANT_CREATE_OS_THREADS | ck.CKF_OS_LOCKING_OK) == OK
        session = app.logged_in(app.slot_of(LABEL))
        tasks = Path(f"/proc/{app.pid()}/task")
        before = {(task / "comm").read_text() for task in tasks.iterdir()}
        kill(made, 0)
        until(made, f"member {LABEL}-0 returned", app, session)
        assert {(task / "comm").read_text() for task in tasks.iterdir()} <= before


@pytest.mark.parametrize(
    "recovery", [RecoverySettings(attempts=0), RecoverySettings(RecoveryMode.MANUAL, interval=0.2)]
)
def test_switched_off_nobody_is_tried(group: Group, recovery: RecoverySettings) -> None:
    made = recovering(group, recovery)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        kill(made, 0)
        until(made, f"member {LABEL}-0 lost", app, session)
        for _ in range(200):
            assert app.random(session)[0] == OK
        assert "recovery attempt" not in made.logged()
        assert len(helpers(LABEL)) == 2


def test_attempts_are_counted_and_end(group: Group, tmp_path: Path) -> None:
    made = recovering(group, RecoverySettings(RecoveryMode.ON_CALL, interval=0.001, attempts=3))
    faulty = Faulty(made, tmp_path)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        faulty.plan(0, "C_Initialize", Fault.ALWAYS, ck.CKR_DEVICE_ERROR)
        kill(made, 0)
        until(made, "recovery attempt 3", app, session)
        for _ in range(100):
            assert app.random(session)[0] == OK
        assert made.logged().count("recovery attempt") == 3
        assert made.logged().count("stays out") == 1, "what is no news is not said again"


def test_a_member_that_missed_a_key_has_it_when_it_returns(group: Group, tmp_path: Path) -> None:
    made = recovering(group)
    faulty = Faulty(made, tmp_path)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        faulty.plan(0, "C_Initialize", Fault.ALWAYS, ck.CKR_DEVICE_ERROR)
        kill(made, 0)
        until(made, "stays out: C_Initialize", app, session)
        key = aes_key(app, session)
        # What the key comes by is refused: it stays out, and is named.
        faulty.plan(0, "C_UnwrapKey", Fault.ALWAYS, ck.CKR_TEMPLATE_INCONSISTENT)
        until(made, "stays out: its objects differ: conflict secret key", app, session)
        assert f"member {LABEL}-0 returned" not in made.logged()
        faulty.clear()
        until(made, f"member {LABEL}-0 returned", app, session)
        kill(made, 1, 2)
        assert app.start("Encrypt", session, ck.CKM_AES_ECB, key) == OK


def test_a_member_whose_pin_was_changed_costs_one_try(group: Group) -> None:
    made = recovering(group)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        victim = made.tokens[0]
        subprocess.run(
            [
                *("pkcs11-tool", "--module", MODULE, "--token-label", victim.label),
                *("--login", "--pin", victim.pin, "--change-pin", "--new-pin", "987654"),
            ],
            env={**os.environ, **victim.environment},
            check=True,
            capture_output=True,
        )
        kill(made, 0)
        until(made, "stays out: login refused", app, session)
        for _ in range(300):
            assert app.random(session)[0] == OK
        assert made.logged().count("recovery attempt") == 1
        assert "987654" not in made.logged()


def test_a_serving_member_whose_pin_was_changed_costs_one_try_however_many_come_back(
    group: Group, tmp_path: Path
) -> None:
    """A resync looks at those that serve by helpers of its own, which have to log in."""
    made = recovering(group)
    plans = behind_chaos(made, tmp_path)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        plans[1].set("C_Login -> answer CKR_PIN_INCORRECT")
        for returns in (1, 2, 3):
            plans[0].set("C_Initialize -> answer CKR_DEVICE_ERROR")
            kill(made, 0)
            while made.logged().count(f"member {LABEL}-0 lost") < returns:
                assert app.random(session)[0] == OK
            aes_key(app, session, b"%d" % returns)
            plans[0].set()
            end = time.monotonic() + LONGEST
            while made.logged().count(f"member {LABEL}-0 returned") < returns:
                assert time.monotonic() < end, made.logged()
                assert app.random(session)[0] == OK
        assert plans[1].fired() == ["C_Login"]
        assert f"member {LABEL}-1 lost" not in made.logged()


def test_a_token_that_was_initialised_anew_is_no_member_any_more(group: Group) -> None:
    made = recovering(group)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        victim = made.tokens[0]
        subprocess.run(
            [
                *("softhsm2-util", "--init-token", "--serial", victim.serial, "--label", victim.label),
                *("--pin", victim.pin, "--so-pin", victim.so_pin),
            ],
            env={**os.environ, **victim.environment},
            check=True,
            capture_output=True,
        )
        kill(made, 0)
        until(made, "stays out: not a member any more", app, session)
        for _ in range(300):
            assert app.random(session)[0] == OK
        assert made.logged().count("recovery attempt") == 1


def test_without_a_login_a_returned_member_waits_for_it(group: Group) -> None:
    made = recovering(group)
    with client(made.module, made.environment) as app:
        rv, session = app.open(app.slot_of(LABEL))
        assert rv == OK
        kill(made, 0)
        until(made, "stays out: awaiting login", app, session)
        assert app.login(session, made.pin) == OK
        assert f"member {LABEL}-0 returned" in made.logged()


def test_members_that_are_down_at_the_start_come_later(group: Group, tmp_path: Path) -> None:
    made = recovering(group)
    faulty = Faulty(made, tmp_path)
    faulty.plan(1, "C_Initialize", Fault.ALWAYS, ck.CKR_DEVICE_ERROR)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        faulty.clear()
        until(made, f"member {LABEL}-1 returned", app, session)


def test_standby_members_are_promoted_together_and_stand_by_again(group: Group, tmp_path: Path) -> None:
    made = recovering(group)
    made.reconfigure(
        lambda settings: replace(
            settings,
            members=(settings.members[0], *(replace(each, role=Role.STANDBY) for each in settings.members[1:])),
        )
    )
    active, *standby = behind_chaos(made, tmp_path)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        _, private = ec_pair(app, session)
        for plan in standby:
            plan.set("C_SignInit -> delay 0")

        def signs() -> list[int]:
            for _ in range(6):
                assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
            return [len(plan.fired()) for plan in standby]

        assert signs() == [0, 0]
        active.set("any -> dead CKR_DEVICE_REMOVED")
        promoted = signs()
        assert all(promoted)
        assert "no active member is left, standby members serve" in made.logged()
        active.release()
        until(made, "an active member is back, standby members stand by", app, session)
        before = [len(plan.fired()) for plan in standby]
        assert signs() == before
