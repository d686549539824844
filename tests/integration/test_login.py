"""Login through the slot: one try on one token, the same state on every member, nothing tried behind anybody's back."""

import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.chaos import behind_chaos
from tests.client import RO, Client, aes_key, client, ec_pair, helpers
from tests.faults import Fault, Faulty
from tests.integration.conftest import TestGroup
from tests.softhsm import MODULE, SoftHSMToken

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
LOW, FINAL, LOCKED = ck.CKF_USER_PIN_COUNT_LOW, ck.CKF_USER_PIN_FINAL_TRY, ck.CKF_USER_PIN_LOCKED
WARNINGS = LOW | FINAL | LOCKED


def flags_of(token: SoftHSMToken) -> int:
    """CK_TOKEN_INFO's flags, from a process that has nothing to do with the group."""
    with client(MODULE, token.environment) as plain:
        info = plain.token_info(plain.slot_of(token.label))[1]
    return int(struct.unpack("<Q", info[96:104])[0])


def warned(made: TestGroup) -> list[bool]:
    return [bool(flags_of(token) & WARNINGS) for token in made.tokens]


def states(of: Client, sessions: list[int]) -> list[int]:
    return [of.state(session)[1] for session in sessions]


def change_pin(token: SoftHSMToken, old: str, new: str) -> None:
    """The PIN of one token is changed by somebody else."""
    with client(token.module, token.environment) as plain:
        session = plain.logged_in(plain.slot_of(token.label), old)
        assert plain.set_pin(session, old, new) == OK


@pytest.fixture
def made(group: Group) -> TestGroup:
    return group(label="login")


@pytest.fixture
def one(made: TestGroup) -> Iterator[Client]:
    with client(made.module, made.environment) as application:
        yield application


@pytest.fixture
def slot(one: Client) -> int:
    return one.slot_of("login")


@pytest.fixture
def session(one: Client, slot: int) -> int:
    return one.open(slot)[1]


def test_a_wrong_pin_costs_one_try_on_one_token(one: Client, session: int, made: TestGroup) -> None:
    assert one.login(session, "9999") == ck.CKR_PIN_INCORRECT
    assert warned(made) == [True, False, False]
    assert one.state(session)[1] == ck.CKS_RW_PUBLIC_SESSION
    assert one.login(session, "1234") == OK
    assert warned(made) == [False, False, False]
    assert "lost" not in made.logged()


def test_second_logins_and_what_is_no_user(one: Client, slot: int, session: int) -> None:
    assert one.logout(session) == ck.CKR_USER_NOT_LOGGED_IN
    assert one.login(session, "1234", 17) == ck.CKR_USER_TYPE_INVALID
    assert one.login(session, "1234", ck.CKU_CONTEXT_SPECIFIC) == ck.CKR_OPERATION_NOT_INITIALIZED
    assert one.login(session, "1234") == OK
    assert one.login(session, "1234") == ck.CKR_USER_ALREADY_LOGGED_IN
    assert one.login(session, "12345678", ck.CKU_SO) == ck.CKR_USER_ANOTHER_ALREADY_LOGGED_IN
    other = one.open(slot)[1]
    assert one.state(other)[1] == ck.CKS_RW_USER_FUNCTIONS
    assert one.logout(other) == OK
    assert states(one, [session, other]) == [ck.CKS_RW_PUBLIC_SESSION] * 2


def test_the_security_officer(one: Client, slot: int, session: int, made: TestGroup) -> None:
    reader = one.open(slot, RO)[1]
    assert one.login(session, "12345678", ck.CKU_SO) == ck.CKR_SESSION_READ_ONLY_EXISTS
    assert one.close(reader) == OK
    assert one.init_pin(session, "5678") == ck.CKR_USER_NOT_LOGGED_IN
    assert one.login(session, "87654321", ck.CKU_SO) == ck.CKR_PIN_INCORRECT
    assert one.login(session, "12345678", ck.CKU_SO) == OK
    assert one.state(session)[1] == ck.CKS_RW_SO_FUNCTIONS
    assert one.open(slot, RO)[0] == ck.CKR_SESSION_READ_WRITE_SO_EXISTS
    assert one.init_pin(session, "5678") == OK
    assert one.logout(session) == OK
    assert one.login(session, "1234") == ck.CKR_PIN_INCORRECT
    assert one.login(session, "5678") == OK
    assert one.logout(session) == OK
    for token in made.tokens:
        change_pin(token, "5678", "1234")


def test_a_new_pin_is_the_pin_of_every_member(one: Client, session: int, made: TestGroup) -> None:
    assert one.login(session, "1234") == OK
    assert one.set_pin(session, "9999", "4321") == ck.CKR_PIN_INCORRECT
    assert warned(made) == [True, False, False]
    assert one.set_pin(session, "1234", "4321") == OK
    # the login goes on, on members that are logged in anew too
    _, private = ec_pair(one, session)
    assert one.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
    for token in made.tokens:
        change_pin(token, "4321", "1234")


def test_no_pin_is_changed_while_a_member_is_out(one: Client, session: int, made: TestGroup) -> None:
    assert one.login(session, "1234") == OK
    os.kill(helpers("login")[made.tokens[2].label], signal.SIGKILL)
    for _ in range(6):
        assert one.random(session)[0] == OK
    assert one.set_pin(session, "1234", "4321") == ck.CKR_DEVICE_ERROR
    for token in made.tokens:
        change_pin(token, "1234", "1234")  # it is still that


def test_a_member_that_refuses_the_login_is_out_and_is_not_tried_again(one: Client, slot: int, made: TestGroup) -> None:
    change_pin(made.tokens[1], "1234", "4321")
    session = one.logged_in(slot)
    assert warned(made) == [False, True, False]
    assert made.logged().count(f"member {made.tokens[1].label} lost: login refused: C_Login answered") == 1
    _, private = ec_pair(one, session)
    for _ in range(6):
        assert one.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
    assert one.logout(session) == OK
    assert one.login(session, "1234") == OK
    assert not flags_of(made.tokens[1]) & (FINAL | LOCKED)


def test_no_automatic_login_where_few_tries_are_left(group: Group, tmp_path: Path) -> None:
    made = group(label="low")
    faulty = Faulty(made, tmp_path)
    with client(MODULE, made.tokens[1].environment) as plain:
        other = plain.open(plain.slot_of(made.tokens[1].label))[1]
        assert plain.login(other, "9999") == ck.CKR_PIN_INCORRECT
    assert warned(made) == [False, True, False]
    with client(made.module, made.environment) as one:
        faulty.plan(1, "C_Login", Fault.CRASH)  # it would be noticed
        session = one.logged_in(one.slot_of("low"))
        assert one.random(session)[0] == OK
        assert faulty.waiting() == [1]
        assert "few tries" in made.logged()
        assert one.close(session) == OK
    assert warned(made) == [False, True, False]


def test_login_ends_with_the_last_session(one: Client, slot: int, session: int) -> None:
    assert one.login(session, "1234") == OK
    other = one.open(slot)[1]
    key = aes_key(one, session, b"last")
    assert one.close(session) == OK
    assert one.state(other)[1] == ck.CKS_RW_USER_FUNCTIONS
    assert one.close(other) == OK
    fresh = one.open(slot)[1]
    assert one.state(fresh)[1] == ck.CKS_RW_PUBLIC_SESSION
    assert one.get(fresh, key, ck.CKA_LABEL)[0] == ck.CKR_OBJECT_HANDLE_INVALID
    assert one.find(fresh, {ck.CKA_LABEL: b"last"}) == (OK, [])
    assert one.close_all(slot) == OK
    again = one.logged_in(slot)
    (found,) = one.find(again, {ck.CKA_LABEL: b"last"})[1]
    assert one.start("Encrypt", again, ck.CKM_AES_ECB, found) == OK
    assert one.out("Encrypt", again, bytes(16))[0] == OK
    assert one.close_all(slot) == OK
    assert one.state(one.open(slot)[1])[1] == ck.CKS_RW_PUBLIC_SESSION


def test_logout_ends_operations(one: Client, slot: int, session: int) -> None:
    assert one.login(session, "1234") == OK
    key = aes_key(one, session)
    other = one.open(slot)[1]
    assert one.start("Encrypt", other, ck.CKM_AES_ECB, key) == OK
    assert one.logout(session) == OK
    assert one.out("Encrypt", other, bytes(16))[0] == ck.CKR_OPERATION_NOT_INITIALIZED
    assert one.start("Encrypt", other, ck.CKM_AES_ECB, key) == ck.CKR_KEY_HANDLE_INVALID


def test_logins_and_logouts_beside_work_do_not_lock_up(one: Client, slot: int) -> None:
    """Locks in the wrong order would: each thread logs out (which touches every session) and works on its own."""
    sessions = [one.open(slot)[1] for _ in range(6)]
    answers: set[int] = set()

    def work(session: int) -> None:
        for _ in range(30):
            answers.add(one.login(session, "1234"))
            answers.add(one.start("Digest", session, ck.CKM_SHA256))
            answers.add(one.out("Digest", session, b"x")[0])
            answers.add(one.logout(session))
            extra = one.open(slot)[1]
            answers.add(one.close(extra))

    threads = [threading.Thread(target=work, args=(session,), daemon=True) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert answers <= {
        OK,
        ck.CKR_USER_ALREADY_LOGGED_IN,
        ck.CKR_USER_NOT_LOGGED_IN,
        ck.CKR_OPERATION_NOT_INITIALIZED,
        ck.CKR_OPERATION_ACTIVE,
    }
    one.login(sessions[0], "1234")
    assert set(states(one, sessions)) == {ck.CKS_RW_USER_FUNCTIONS}


def test_a_lost_primary_does_not_cost_the_login(one: Client, slot: int, session: int, made: TestGroup) -> None:
    os.kill(helpers("login")[made.tokens[0].label], signal.SIGKILL)
    assert one.login(session, "1234") == OK
    assert one.state(session)[1] == ck.CKS_RW_USER_FUNCTIONS
    aes_key(one, session)


def test_a_primary_that_says_in_the_login_that_it_is_gone(group: Group, tmp_path: Path) -> None:
    made = group(label="login")
    plans = behind_chaos(made, tmp_path)
    with client(made.module, made.environment) as app:
        _, session = app.open(app.slot_of("login"))
        plans[0].set("C_Login -> answer CKR_DEVICE_REMOVED")
        assert app.login(session, made.pin) == OK
        assert "member login-0 lost: C_Login answered CKR_DEVICE_REMOVED (after " in made.logged()
        plans[1].set("C_Logout -> answer CKR_TOKEN_NOT_PRESENT")
        assert app.logout(session) == OK
        assert "member login-1 lost: C_Logout answered CKR_TOKEN_NOT_PRESENT (after " in made.logged()


def test_always_authenticate(one: Client, slot: int, session: int, made: TestGroup) -> None:
    assert one.login(session, "1234") == OK
    named = {ck.CKA_TOKEN: True, ck.CKA_LABEL: b"always", ck.CKA_ID: b"always"}
    public = {**named, ck.CKA_MODULUS_BITS: 2048, ck.CKA_VERIFY: True}
    private = {**named, ck.CKA_SIGN: True, ck.CKA_ALWAYS_AUTHENTICATE: True}
    rv, _, key = one.pair(session, ck.CKM_RSA_PKCS_KEY_PAIR_GEN, public, private)
    assert rv == OK
    for _ in range(3):
        assert one.start("Sign", session, ck.CKM_SHA256_RSA_PKCS, key) == OK
        assert one.out("Sign", session, b"message")[0] == ck.CKR_USER_NOT_LOGGED_IN
        assert one.start("Sign", session, ck.CKM_SHA256_RSA_PKCS, key) == OK
        assert one.login(session, "1234", ck.CKU_CONTEXT_SPECIFIC) == OK
        assert one.out("Sign", session, b"message")[0] == OK
    assert one.start("Sign", session, ck.CKM_SHA256_RSA_PKCS, key) == OK
    assert one.login(session, "9999", ck.CKU_CONTEXT_SPECIFIC) == ck.CKR_PIN_INCORRECT
    assert sum(warned(made)) == 1
    # An authenticated operation is nobody else's: its member dies, and it ends with an honest error.
    fresh = one.open(slot)[1]
    assert one.start("Sign", fresh, ck.CKM_SHA256_RSA_PKCS, key) == OK
    assert one.login(fresh, "1234", ck.CKU_CONTEXT_SPECIFIC) == OK
    for member in list(helpers("login").values())[:3]:
        os.kill(member, signal.SIGKILL)
    assert one.out("Sign", fresh, b"message")[0] == ck.CKR_DEVICE_ERROR


def test_the_pin_is_in_no_file_and_no_argument(one: Client, slot: int, made: TestGroup) -> None:
    session = one.open(slot)[1]
    assert one.login(session, "9999-8888-7777") in (ck.CKR_PIN_INCORRECT, ck.CKR_PIN_LEN_RANGE)
    assert one.login(session, "1234") == OK
    shown = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True).stdout
    assert "9999-8888-7777" not in shown + made.logged()


@pytest.mark.parametrize("answer", [ck.CKR_GENERAL_ERROR, ck.CKR_USER_PIN_NOT_INITIALIZED])
@pytest.mark.parametrize("member", [0, 1])
def test_a_module_that_did_not_get_as_far_as_the_pin(group: Group, tmp_path: Path, answer: int, member: int) -> None:
    """SoftHSM, while another process logs in to the same token."""
    made = group(label="early")
    faulty = Faulty(made, tmp_path)
    with client(made.module, made.environment) as one:
        session = one.open(one.slot_of("early"))[1]
        faulty.plan(member, "C_Login", Fault.ANSWER, answer)
        assert one.login(session, "1234") == OK
        assert not faulty.waiting()
        assert "lost" not in made.logged()
        assert one.logout(session) == OK
        faulty.plan(0, "C_Login", Fault.ALWAYS, answer)
        assert one.login(session, "1234") == answer
        assert one.state(session)[1] == ck.CKS_RW_PUBLIC_SESSION


def test_many_processes_that_start_at_once(made: TestGroup) -> None:
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.client import Client
app = Client(sys.argv[2])
for _ in range(2):
    assert app.initialize() == 0
    session = app.open(app.slot_of("login"))[1]
    rv = app.login(session, "1234")
    assert rv == 0, hex(rv)
    assert app.random(session)[0] == 0
    assert app.finalize() == 0
"""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", program, root, made.module]
    environment = {**os.environ, **made.environment, "PYTHONPATH": root}
    starting = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    said = [process.communicate(timeout=60)[1] for process in starting]
    assert [process.returncode for process in starting] == [0] * 6, said
    assert "lost" not in made.logged()
