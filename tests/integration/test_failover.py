"""Members that are lost, hang, crash or forget: what the application gets is as if nothing had happened."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from pyha.cryptoki import constants as ck
from tests.chaos import behind_chaos
from tests.client import EC, Client, aes_key, all_helpers, client, ec_pair, helpers, wait_for_end
from tests.faults import Fault, Faulty
from tests.integration.conftest import TestGroup

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
MEBIBYTE = bytes(1 << 20)


def kill(made: TestGroup, index: int) -> None:
    os.kill(helpers(made.label)[made.tokens[index].label], signal.SIGKILL)


def lost(made: TestGroup) -> list[int]:
    """Members that the log calls lost, in that order."""
    names = [token.label for token in made.tokens]
    lines = [line for line in made.logged().splitlines() if " lost: " in line]
    return [names.index(line.partition("member ")[2].partition(" lost")[0]) for line in lines]


def point_of(of: Client, session: int, public: int) -> ec.EllipticCurvePublicKey:
    point = of.get(session, public, ck.CKA_EC_POINT)[1]
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point[2:])


def verifies(key: ec.EllipticCurvePublicKey, signature: bytes, digest: bytes) -> bool:
    numbers = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    try:
        key.verify(encode_dss_signature(*numbers), digest, ec.ECDSA(Prehashed(SHA256())))
    except InvalidSignature:
        return False
    return True


class Stage:
    """A group of faulty members, an application, and a session logged in as user."""

    def __init__(self, made: TestGroup, faulty: Faulty, application: Client) -> None:
        self.made, self.faulty, self.application = made, faulty, application
        self.slot = application.slot_of(made.label)
        self.session = application.logged_in(self.slot)


@pytest.fixture
def stage(group: Group, tmp_path: Path) -> Any:
    made = group(label="stage")
    faulty = Faulty(made, tmp_path)
    with client(made.module, made.environment) as application:
        yield Stage(made, faulty, application)


def with_deadline(group: Group, tmp_path: Path, seconds: float, label: str) -> tuple[TestGroup, Faulty]:
    made = group(label=label)
    made.reconfigure(lambda settings: replace(settings, deadline=seconds, slow_deadline=max(60.0, seconds)))
    return made, Faulty(made, tmp_path)


# The helper is gone


def test_a_killed_helper_costs_nothing(stage: Stage) -> None:
    app, session = stage.application, stage.session
    public, private = ec_pair(app, session)
    key = point_of(app, session, public)
    for victim in (0, 1):
        kill(stage.made, victim)
        for _ in range(6):
            rv, signature = app.sign(session, ck.CKM_ECDSA, private, bytes(32))
            assert rv == OK
            assert verifies(key, signature, bytes(32))
        assert sorted(app.find(session, {ck.CKA_LABEL: b"ec"})[1]) == sorted([public, private])
        assert app.get(session, private, ck.CKA_LABEL) == (OK, b"ec")
        assert app.state(session) == (OK, ck.CKS_RW_USER_FUNCTIONS)
    assert sorted(lost(stage.made)) == [0, 1]
    kill(stage.made, 2)
    assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == ck.CKR_DEVICE_ERROR
    assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == ck.CKR_TOKEN_NOT_PRESENT
    assert app.find_init(session, {}) == ck.CKR_TOKEN_NOT_PRESENT
    assert app.slots() == (OK, [stage.slot])
    assert app.state(session) == (OK, ck.CKS_RW_USER_FUNCTIONS)
    assert app.logout(session) == OK
    assert app.close(session) == OK
    assert app.finalize() == OK


def test_a_stopped_helper_costs_one_deadline(group: Group, tmp_path: Path) -> None:
    made, _ = with_deadline(group, tmp_path, 1.0, "stopped")
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of("stopped"))
        _, private = ec_pair(app, session)
        victim = helpers("stopped")[made.tokens[1].label]
        os.kill(victim, signal.SIGSTOP)
        for _ in range(6):
            assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
        assert lost(made) == [1]
        assert "did not return within its deadline" in made.logged()
        assert set(helpers("stopped")) == {made.tokens[0].label, made.tokens[2].label}


@pytest.mark.parametrize("fault", [Fault.CRASH, Fault.HANG])
@pytest.mark.parametrize("function", ["C_SignInit", "C_Sign", "C_GenerateRandom", "C_FindObjectsInit", "C_OpenSession"])
def test_one_bad_call_on_one_member(group: Group, tmp_path: Path, function: str, fault: Fault) -> None:
    made, faulty = with_deadline(group, tmp_path, 1.0, "bad")
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of("bad"))
        _, private = ec_pair(app, session)
        faulty.plan(0, function, fault)
        sessions = [app.open(app.slot_of("bad"))[1] for _ in range(12)]
        for each in sessions:
            assert app.start("Sign", each, ck.CKM_ECDSA, private) == OK
            assert app.random(session)[0] == OK
        for each in sessions:
            assert app.out("Sign", each, bytes(32))[0] == OK
        assert len(app.find(session, {ck.CKA_LABEL: b"ec"})[1]) == 2
        assert not faulty.waiting()
        assert lost(made) == [0]


# Operations in parts


def kill_place(stage: Stage, function: str) -> None:
    """The member that the next call of this function goes to dies in it."""
    stage.faulty.everywhere(function, Fault.CRASH)


def test_a_signature_between_init_and_sign(stage: Stage) -> None:
    app, session = stage.application, stage.session
    public, private = ec_pair(app, session)
    assert app.start("Sign", session, ck.CKM_ECDSA, private) == OK
    stage.faulty.everywhere("C_Sign", Fault.ANSWER, ck.CKR_DEVICE_REMOVED)
    left = 3
    # whoever has it says that it is gone, and so does the next one; the third one has no fault any more
    stage.faulty.plan(2, "C_InitToken", Fault.ANSWER)
    rv, _, signature = app.out("Sign", session, bytes(32))
    assert rv == OK
    assert verifies(point_of(app, session, public), signature, bytes(32))
    assert len(lost(stage.made)) < left


def test_parts_of_a_digest_are_said_again(stage: Stage) -> None:
    app, session = stage.application, stage.session
    assert app.start("Digest", session, ck.CKM_SHA256) == OK
    assert app.feed("DigestUpdate", session, b"one") == OK
    for victim in (0, 1):
        kill(stage.made, victim)
    assert app.feed("DigestUpdate", session, b"two") == OK
    again = app.out("DigestFinal", session)
    assert app.start("Digest", session, ck.CKM_SHA256) == OK
    assert app.out("Digest", session, b"onetwo") == again


def test_output_that_was_delivered_comes_out_the_same(stage: Stage) -> None:
    app, session = stage.application, stage.session
    key = aes_key(app, session)
    data = os.urandom(1000)
    assert app.start("Encrypt", session, (ck.CKM_AES_CBC_PAD, bytes(16)), key) == OK
    whole = app.out("Encrypt", session, data)[2]
    assert app.start("Encrypt", session, (ck.CKM_AES_CBC_PAD, bytes(16)), key) == OK
    parts = [app.out("EncryptUpdate", session, data[:500])[2]]
    kill(stage.made, 0)
    parts.append(app.out("EncryptUpdate", session, data[500:])[2])
    kill(stage.made, 1)
    parts.append(app.out("EncryptFinal", session)[2])
    assert b"".join(parts) == whole


def test_a_signature_in_parts(stage: Stage) -> None:
    app, session = stage.application, stage.session
    rv, mac_key = app.generate(
        session,
        ck.CKM_GENERIC_SECRET_KEY_GEN,
        {ck.CKA_TOKEN: True, ck.CKA_VALUE_LEN: 32, ck.CKA_SIGN: True, ck.CKA_LABEL: b"mac", ck.CKA_VERIFY: True},
    )
    assert rv == OK
    fresh = app.open(stage.slot)[1]
    assert app.start("Sign", fresh, ck.CKM_SHA256_HMAC, mac_key) == OK
    assert app.feed("SignUpdate", fresh, b"one") == OK
    kill(stage.made, 0)
    assert app.feed("SignUpdate", fresh, b"two") == OK
    kill(stage.made, 1)
    rv, _, mac = app.out("SignFinal", fresh)
    assert rv == OK
    assert app.sign(fresh, ck.CKM_SHA256_HMAC, mac_key, b"onetwo") == (OK, mac)


def test_an_operation_that_had_a_login_of_its_own_does_not_move(stage: Stage) -> None:
    """CKU_CONTEXT_SPECIFIC went to one member, and is never said again."""
    app, session = stage.application, stage.session
    named = {ck.CKA_TOKEN: True, ck.CKA_LABEL: b"always", ck.CKA_ID: b"always"}
    private = {**named, ck.CKA_SIGN: True, ck.CKA_ALWAYS_AUTHENTICATE: True}
    rv, _, key = app.pair(session, ck.CKM_EC_KEY_PAIR_GEN, {**named, ck.CKA_EC_PARAMS: EC}, private)
    assert rv == OK
    assert app.start("Sign", session, ck.CKM_ECDSA, key) == OK
    assert app.login(session, "1234", ck.CKU_CONTEXT_SPECIFIC) == OK
    stage.faulty.everywhere("C_Sign", Fault.ANSWER, ck.CKR_DEVICE_REMOVED)
    assert app.out("Sign", session, bytes(32))[0] == ck.CKR_DEVICE_ERROR
    stage.faulty.clear()
    assert len(lost(stage.made)) == 1
    assert app.start("Sign", session, ck.CKM_ECDSA, key) == OK
    assert app.login(session, "1234", ck.CKU_CONTEXT_SPECIFIC) == OK
    assert app.out("Sign", session, bytes(32))[0] == OK


def test_beyond_the_journal_the_error_is_honest(stage: Stage) -> None:
    app, session = stage.application, stage.session
    assert app.start("Digest", session, ck.CKM_SHA256) == OK
    for _ in range(5):
        assert app.feed("DigestUpdate", session, MEBIBYTE) == OK
    stage.faulty.everywhere("C_DigestUpdate", Fault.CRASH)
    assert app.feed("DigestUpdate", session, b"x") == ck.CKR_DEVICE_ERROR
    stage.faulty.clear()
    assert len(lost(stage.made)) == 1
    assert app.feed("DigestUpdate", session, b"x") == ck.CKR_OPERATION_NOT_INITIALIZED
    # the group itself has not failed
    assert app.start("Digest", session, ck.CKM_SHA256) == OK
    assert app.out("Digest", session, b"x")[0] == OK


@pytest.mark.parametrize("mechanism", ["pss", "oaep"])
def test_rsa_with_parameters_survives(stage: Stage, mechanism: str) -> None:
    app, session = stage.application, stage.session
    named = {ck.CKA_TOKEN: True, ck.CKA_ID: b"rsa", ck.CKA_LABEL: b"rsa"}
    public = {**named, ck.CKA_MODULUS_BITS: 2048, ck.CKA_PUBLIC_EXPONENT: b"\1\0\1", ck.CKA_ENCRYPT: True}
    private = {**named, ck.CKA_SIGN: True, ck.CKA_DECRYPT: True}
    rv, ours, theirs = app.pair(session, ck.CKM_RSA_PKCS_KEY_PAIR_GEN, {**public, ck.CKA_VERIFY: True}, private)
    assert rv == OK
    if mechanism == "pss":
        how: Any = (ck.CKM_SHA256_RSA_PKCS_PSS, (ck.CKM_SHA256, ck.CKG_MGF1_SHA256, 32))
        assert app.start("Sign", session, how, theirs) == OK
        stage.faulty.everywhere("C_Sign", Fault.ANSWER, ck.CKR_DEVICE_REMOVED)
        stage.faulty.plan(2, "C_InitToken", Fault.ANSWER)
        rv, _, signature = app.out("Sign", session, b"message")
        assert rv == OK
        assert app.start("Verify", session, how, ours) == OK
        assert app.verify(session, b"message", signature) == OK
    else:
        how = (ck.CKM_RSA_PKCS_OAEP, (ck.CKM_SHA_1, ck.CKG_MGF1_SHA1, 1, ("pointer", b"")))
        assert app.start("Encrypt", session, how, ours) == OK
        secret = app.out("Encrypt", session, b"secret")[2]
        assert app.start("Decrypt", session, how, theirs) == OK
        stage.faulty.everywhere("C_Decrypt", Fault.ANSWER, ck.CKR_DEVICE_REMOVED)
        stage.faulty.plan(2, "C_InitToken", Fault.ANSWER)
        assert app.out("Decrypt", session, secret)[2] == b"secret"


# What an answer means


def test_poison_takes_down_two_members_at_most(stage: Stage) -> None:
    app, session = stage.application, stage.session
    stage.faulty.everywhere("C_Digest", Fault.POISON)
    innocent: list[int] = []
    stop = threading.Event()

    def work() -> None:
        own = app.open(stage.slot)[1]
        while not stop.is_set():
            innocent.append(app.start("Digest", own, ck.CKM_SHA256) or app.out("Digest", own, b"innocent")[0])

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    try:
        assert app.start("Digest", session, ck.CKM_SHA256) == OK
        assert app.out("Digest", session, b"POISON")[0] == ck.CKR_DEVICE_ERROR
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert len(lost(stage.made)) == 2
    assert set(innocent) == {OK}
    assert app.start("Digest", session, ck.CKM_SHA256) == OK
    assert app.out("Digest", session, b"healthy")[0] == OK


def test_innocent_calls_that_are_inside_when_a_helper_is_poisoned_are_said_again(group: Group, tmp_path: Path) -> None:
    made = group(label="stage")
    plans = behind_chaos(made, tmp_path)
    with client(made.module, made.environment) as app:
        slot = app.slot_of("stage")
        for plan in plans:
            plan.set('C_Digest data="innocent" once -> hang', 'C_Digest data="POISON" -> crash')
        sessions = [app.open(slot)[1] for _ in range(9)]
        for each in sessions:
            assert app.start("Digest", each, ck.CKM_SHA256) == OK
        answers: list[tuple[int, bytes]] = []

        def work(session: int) -> None:
            rv, _, digest = app.out("Digest", session, b"innocent")
            answers.append((rv, digest))

        workers = [threading.Thread(target=work, args=(each,)) for each in sessions]
        for worker in workers:
            worker.start()
        for plan in plans:
            plan.wait_for("C_Digest")  # one hangs inside of each member
        poison = app.open(slot)[1]
        assert app.start("Digest", poison, ck.CKM_SHA256) == OK
        assert app.out("Digest", poison, b"POISON")[0] == ck.CKR_DEVICE_ERROR
        for plan in plans:
            plan.release()
        for worker in workers:
            worker.join(60)
        assert answers == [(OK, hashlib.sha256(b"innocent").digest())] * 9
        assert len(lost(made)) == 2


@pytest.mark.parametrize("answer", [ck.CKR_GENERAL_ERROR, ck.CKR_DEVICE_ERROR, ck.CKR_FUNCTION_FAILED])
def test_an_ambiguous_answer_of_a_healthy_member_is_an_answer(stage: Stage, answer: int) -> None:
    app, session = stage.application, stage.session
    stage.faulty.everywhere("C_Digest", Fault.ALWAYS, answer)
    for _ in range(3):
        assert app.start("Digest", session, ck.CKM_SHA256) == OK
        assert app.out("Digest", session, b"x")[0] == answer
    assert not lost(stage.made)


def test_a_removed_device_is_a_loss(stage: Stage) -> None:
    app, session = stage.application, stage.session
    stage.faulty.plan(0, "C_GenerateRandom", Fault.ALWAYS, ck.CKR_DEVICE_REMOVED)
    for _ in range(6):
        assert app.random(session)[0] == OK
    assert lost(stage.made) == [0]
    said = r"member stage-0 lost: C_GenerateRandom answered CKR_DEVICE_REMOVED \(after \d+\.\d{3} s\)\n"
    assert re.search(said, stage.made.logged())


def test_the_probe_decides(stage: Stage) -> None:
    app, session = stage.application, stage.session
    stage.faulty.plan(1, "C_GenerateRandom", Fault.ALWAYS, ck.CKR_GENERAL_ERROR)
    for _ in range(6):
        assert app.random(session)[0] == OK
    assert lost(stage.made) == [1]
    answered = "C_GenerateRandom answered CKR_GENERAL_ERROR"
    assert f"member stage-1 lost: {answered} and the probe failed: {answered} (after " in stage.made.logged()


def test_an_answer_about_the_arguments_is_passed_on(stage: Stage) -> None:
    app, session = stage.application, stage.session
    _, private = ec_pair(app, session)
    stage.faulty.everywhere("C_SignInit", Fault.ALWAYS, ck.CKR_KEY_FUNCTION_NOT_PERMITTED)
    assert app.start("Sign", session, ck.CKM_ECDSA, private) == ck.CKR_KEY_FUNCTION_NOT_PERMITTED
    assert not lost(stage.made)


# What a member forgets is healed


@pytest.mark.parametrize("fault", [Fault.SESSIONS, Fault.LOGOUT])
@pytest.mark.parametrize(
    "function", ["C_SignInit", "C_Sign", "C_FindObjectsInit", "C_GetAttributeValue", "C_GenerateRandom"]
)
def test_dropped_sessions_and_logins_are_not_seen(stage: Stage, function: str, fault: Fault) -> None:
    app, session = stage.application, stage.session
    public, private = ec_pair(app, session)
    for _ in range(3):
        assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
    for round_ in range(3):
        stage.faulty.everywhere(function, fault)
        for _ in range(6):
            rv, signature = app.sign(session, ck.CKM_ECDSA, private, bytes(32))
            assert rv == OK, (round_, hex(rv))
            assert verifies(point_of(app, session, public), signature, bytes(32))
            assert sorted(app.find(session, {ck.CKA_LABEL: b"ec"})[1]) == sorted([public, private])
            assert app.random(session)[0] == OK
        assert app.get(session, private, ck.CKA_LABEL) == (OK, b"ec")
        stage.faulty.clear()
    assert not lost(stage.made)


def test_a_search_after_a_dropped_login_still_finds_what_is_private(stage: Stage) -> None:
    """Nothing answers CKR_USER_NOT_LOGGED_IN here: a search as nobody simply finds less."""
    app, session = stage.application, stage.session
    key = aes_key(app, session, b"private")
    stage.faulty.plan(0, "C_GetSessionInfo", Fault.LOGOUT)
    assert app.find(session, {ck.CKA_LABEL: b"private"}) == (OK, [key])
    assert not stage.faulty.waiting()


def test_a_handle_that_went_stale_is_bound_again(stage: Stage) -> None:
    app, session = stage.application, stage.session
    public, private = ec_pair(app, session)
    for _ in range(3):
        assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
    stage.faulty.everywhere("C_SignInit", Fault.ANSWER, ck.CKR_KEY_HANDLE_INVALID)
    for _ in range(6):
        rv, signature = app.sign(session, ck.CKM_ECDSA, private, bytes(32))
        assert rv == OK
        assert verifies(point_of(app, session, public), signature, bytes(32))
    assert not stage.faulty.waiting()
    assert not lost(stage.made)


def test_a_key_that_another_process_destroyed_is_invalid(stage: Stage) -> None:
    app, session = stage.application, stage.session
    _, private = ec_pair(app, session)
    with stage.made.application() as other:
        for handle in other.find({ck.CKA_LABEL: b"ec"}):
            other.destroy(handle)
    assert app.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == ck.CKR_KEY_HANDLE_INVALID
    assert not lost(stage.made)


def test_objects_found_before_the_loss_and_used_after_it(stage: Stage) -> None:
    app, session = stage.application, stage.session
    with stage.made.application() as other:
        other.pair(
            ck.CKM_EC_KEY_PAIR_GEN,
            {ck.CKA_TOKEN: True, ck.CKA_ID: b"f", ck.CKA_EC_PARAMS: b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"},
            {ck.CKA_TOKEN: True, ck.CKA_ID: b"f", ck.CKA_SIGN: True},
        )
    (private,) = app.find(session, {ck.CKA_ID: b"f", ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})[1]
    (public,) = app.find(session, {ck.CKA_ID: b"f", ck.CKA_CLASS: ck.CKO_PUBLIC_KEY})[1]
    kill(stage.made, 0)
    rv, signature = app.sign(session, ck.CKM_ECDSA, private, bytes(32))
    assert rv == OK
    assert verifies(point_of(app, session, public), signature, bytes(32))
    assert app.find(session, {ck.CKA_ID: b"f", ck.CKA_CLASS: ck.CKO_PRIVATE_KEY}) == (OK, [private])


def test_a_search_that_was_begun_outlives_every_member(stage: Stage) -> None:
    """It is drained when it begins: nothing of it can fail over later."""
    app, session = stage.application, stage.session
    pair = ec_pair(app, session)
    assert app.find_init(session, {ck.CKA_LABEL: b"ec"}) == OK
    first = app.find_next(session, 1)[1]
    for victim in range(3):
        kill(stage.made, victim)
    rv, rest = app.find_next(session, 10)
    assert rv == OK
    assert sorted(first + rest) == sorted(pair)
    assert app.find_final(session) == OK


def test_a_member_that_is_lost_while_all_are_seeded_is_out_and_the_rest_go_on(stage: Stage) -> None:
    app, session = stage.application, stage.session
    stage.faulty.plan(1, "C_SeedRandom", Fault.CRASH)
    assert app.feed("SeedRandom", session, b"seed") == OK
    assert lost(stage.made) == [1]
    assert app.random(session)[0] == OK


def test_asking_for_a_length_ends_no_operation_and_moves_no_member(stage: Stage) -> None:
    app, session = stage.application, stage.session
    public, private = ec_pair(app, session)
    assert app.start("Sign", session, ck.CKM_ECDSA, private) == OK
    for _ in range(3):
        assert app.out("Sign", session, bytes(32), room=None)[:2] == (OK, 64)
    rv, _, signature = app.out("Sign", session, bytes(32))
    assert rv == OK
    assert verifies(point_of(app, session, public), signature, bytes(32))
    assert "failover" not in stage.made.logged()


# Under load


LOAD = """
import hashlib, sys, threading
sys.path.insert(0, sys.argv[1])
from pyha.cryptoki import constants as ck
from tests.client import Client
module, label, threads, rounds = sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
app = Client(module)
assert app.initialize(flags=ck.CKF_OS_LOCKING_OK) == 0
slot = app.slot_of(label)
first = app.logged_in(slot)
private, = app.find(first, {ck.CKA_LABEL: b"ec", ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})[1]
out = threading.Lock()
def work(number):
    rv, session = app.open(slot)
    assert rv == 0, hex(rv)
    for turn in range(rounds):
        digest = hashlib.sha256(b"%d %d" % (number, turn)).digest()
        rv, signature = app.sign(session, ck.CKM_ECDSA, private, digest)
        with out:
            print(f"{rv:#x} {digest.hex()} {signature.hex()}", flush=True)
workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
for worker in workers: worker.start()
for worker in workers: worker.join()
assert app.finalize() == 0
"""


def test_sixteen_threads_while_helpers_are_killed_one_after_another(group: Group) -> None:
    made = group(label="load")
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of("load"))
        public, _ = ec_pair(app, session)
        key = point_of(app, session, public)
    threads, rounds = 16, 60
    root = str(Path(__file__).parents[2])
    lines = []
    victims = {threads * rounds // 4: 0, threads * rounds // 2: 1}
    with subprocess.Popen(
        [sys.executable, "-c", LOAD, root, made.module, "load", str(threads), str(rounds)],
        env={**os.environ, **made.environment, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            lines.append(line.split())
            if len(lines) in victims:
                kill(made, victims[len(lines)])
    assert worker.returncode == 0
    assert len(lines) == threads * rounds
    assert {words[0] for words in lines} == {"0x0"}
    for _, digest, signature in lines:
        assert verifies(key, bytes.fromhex(signature), bytes.fromhex(digest))
    assert lost(made) == [0, 1]


def test_a_loss_under_many_threads_is_told_in_few_lines(group: Group, tmp_path: Path) -> None:
    made = group(members=1, standby=1, label="told")
    plan, _ = behind_chaos(made, tmp_path)
    with client(made.module, made.environment) as app:
        slot = app.slot_of("told")
        sessions = [app.open(slot)[1] for _ in range(12)]
        for each in sessions:
            assert app.start("Digest", each, ck.CKM_SHA256) == OK
        plan.add("C_Digest -> hang")
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda session=each: answers.append(app.out("Digest", session, b"x")[0]))
            for each in sessions
        ]
        for thread in threads:
            thread.start()
        plan.wait_for("C_Digest", 12)
        kill(made, 0)
        for thread in threads:
            thread.join(60)
        assert answers == [OK] * 12
        assert app.finalize() == OK
    (line,) = [line for line in made.logged().splitlines() if "failover: " in line]
    first, second = (token.label for token in made.tokens)
    assert f"failover: C_Digest went to member {second}, " in line
    assert f" s after it was given to member {first}: its helper ended during C_Digest" in line
    more = [line.partition('"told": ')[2] for line in made.logged().splitlines() if " more call" in line]
    assert sum(int(line.split()[0]) for line in more) == 11
    assert len(more) <= 4  # one a status, and all were moved at once


# The end, with calls inside


def left_alone(label: str) -> None:
    """Only the helper whose module hangs is left, for some seconds that nobody waits: it might be at work after all."""
    end = time.monotonic() + 60
    while len(left := all_helpers(label)) > 1:
        assert time.monotonic() < end, left
        time.sleep(0.01)
    for each in left:
        os.kill(each, signal.SIGKILL)
    wait_for_end(left)


def test_finalize_lets_go_who_is_inside_a_hung_call(group: Group, tmp_path: Path) -> None:
    made, faulty = with_deadline(group, tmp_path, 600.0, "hung")
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of("hung"))
        faulty.everywhere("C_Digest", Fault.HANG)
        assert app.start("Digest", session, ck.CKM_SHA256) == OK
        answers: list[int] = []
        inside = threading.Thread(target=lambda: answers.append(app.out("Digest", session, b"x")[0]))
        inside.start()
        while len(faulty.waiting()) == 3:
            assert inside.is_alive()
        assert app.finalize() == OK
        inside.join(60)
        assert answers == [ck.CKR_CRYPTOKI_NOT_INITIALIZED]
        left_alone("hung")
        assert not lost(made)  # nobody was: it was us who left
        faulty.clear()
        assert app.initialize() == OK
        assert app.random(app.open(app.slot_of("hung"))[1])[0] == OK


def test_finalize_while_a_member_is_being_connected(group: Group, tmp_path: Path) -> None:
    made, faulty = with_deadline(group, tmp_path, 600.0, "joining")
    with client(made.module, made.environment) as app:
        faulty.plan(0, "C_GetSlotList", Fault.HANG)
        slot = app.slot_of("joining")
        answers: list[int] = []
        inside = threading.Thread(target=lambda: answers.append(app.open(slot)[0]))
        inside.start()
        while faulty.waiting():
            assert inside.is_alive()
        assert app.finalize() == OK
        inside.join(60)
        assert answers == [ck.CKR_CRYPTOKI_NOT_INITIALIZED]
        left_alone("joining")


def test_closing_and_logging_out_while_others_work(stage: Stage) -> None:
    app, session = stage.application, stage.session
    _, private = ec_pair(app, session)
    allowed = {OK, ck.CKR_SESSION_HANDLE_INVALID, ck.CKR_OPERATION_NOT_INITIALIZED, ck.CKR_KEY_HANDLE_INVALID}
    answers: set[int] = set()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            own = app.open(stage.slot)[1]
            answers.add(app.sign(own, ck.CKM_ECDSA, private, bytes(32))[0])
            answers.add(app.find(own, {ck.CKA_LABEL: b"ec"})[0])

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(15):
        answers.add(app.close_all(stage.slot))
        answers.add(app.open(stage.slot)[0])
    stop.set()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert answers <= allowed | {ck.CKR_USER_NOT_LOGGED_IN}, [hex(each) for each in answers]
    fresh = app.logged_in(stage.slot)
    assert (
        app.sign(fresh, ck.CKM_ECDSA, app.find(fresh, {ck.CKA_LABEL: b"ec", ck.CKA_SIGN: True})[1][0], bytes(32))[0]
        == OK
    )
    assert not lost(stage.made)
