"""The virtual slot as an application sees it: slot and token, sessions and their rules, handles, operations."""

import os
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pyha.cli import config_write
from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import COUNT_2_40, FUNCTIONS, Function, Route
from pyha.cryptoki.kinds import KINDS, Flow, Kind
from pyha.cryptoki.names import rv_name
from pyha.runtime import config
from pyha.runtime.naming import group_serial
from pyha.runtime.settings import LogLevel
from tests.client import RO, RW, Client, Word, aes_key, client, ec_pair, helpers
from tests.integration.conftest import DEMO, TestGroup
from tests.softhsm import MODULE

Group = Callable[..., TestGroup]


def rewrite(made: TestGroup, **changes: Any) -> None:
    """The configuration with other settings of the whole file."""
    config_write.write(str(made.conf), config_write.render(replace(config.load(str(made.conf)), **changes)))


@pytest.fixture(scope="module")
def made(group_of_module: Group) -> TestGroup:
    return group_of_module()


@pytest.fixture(scope="module")
def one(made: TestGroup) -> Iterator[Client]:
    """One application for the tests that leave nothing behind."""
    with client(made.module, made.environment) as application:
        yield application


@pytest.fixture
def slot(one: Client, made: TestGroup) -> Iterator[int]:
    found = one.slot_of(made.label)
    yield found
    assert one.close_all(found) == ck.CKR_OK


@pytest.fixture
def user(one: Client, slot: int) -> int:
    """A read/write session, logged in as user."""
    return one.logged_in(slot)


# Slot and token


def test_one_slot_and_what_it_says(one: Client, made: TestGroup) -> None:
    rv, slots = one.slots()
    assert (rv, len(slots)) == (ck.CKR_OK, 1)
    assert one.slots(present=False) == (rv, slots)
    info = one.slot_info(slots[0])[1]
    assert info[:64].decode().rstrip() == "HA Virtual Card Slot"
    token = one.token_info(slots[0])[1]
    assert token[:32].decode().rstrip() == made.label
    serials = {each.serial for each in made.tokens}
    assert token[80:96].decode() == group_serial(made.tokens[0].serial, serials)


def test_slot_list_protocol(one: Client) -> None:
    count = Word(0)
    assert one.call("C_GetSlotList", 1, None, bytes(8)) == ck.CKR_OK
    assert one.raw_slots(True, bytes(8), count) == ck.CKR_BUFFER_TOO_SMALL


def test_slots_that_do_not_exist(one: Client, slot: int) -> None:
    wrong = slot + 1
    assert one.slot_info(wrong)[0] == ck.CKR_SLOT_ID_INVALID
    assert one.token_info(wrong)[0] == ck.CKR_SLOT_ID_INVALID
    assert one.mechanisms(wrong)[0] == ck.CKR_SLOT_ID_INVALID
    assert one.mechanism_info(wrong, ck.CKM_SHA256)[0] == ck.CKR_SLOT_ID_INVALID
    assert one.open(wrong)[0] == ck.CKR_SLOT_ID_INVALID
    assert one.close_all(wrong) == ck.CKR_SLOT_ID_INVALID
    assert one.call("C_InitToken", wrong, b"12345678", 8, bytes(32)) == ck.CKR_SLOT_ID_INVALID


def test_the_virtual_token_is_not_initialised_through_the_slot(one: Client, slot: int) -> None:
    assert one.call("C_InitToken", slot, b"12345678", 8, b" " * 32) == ck.CKR_FUNCTION_NOT_SUPPORTED


def test_mechanisms_are_known_ones_that_every_member_offers(one: Client, slot: int, made: TestGroup) -> None:
    rv, offered = one.mechanisms(slot)
    assert rv == ck.CKR_OK
    with client(MODULE, made.tokens[0].environment) as plain:
        own = plain.mechanisms(plain.slot_of(made.tokens[0].label))[1]
        assert set(offered) <= set(own)
        assert {ck.CKM_ECDSA, ck.CKM_RSA_PKCS, ck.CKM_AES_GCM, ck.CKM_SHA256_RSA_PKCS_PSS} <= set(offered)
        for mechanism in offered:
            ours, theirs = (
                one.mechanism_info(slot, mechanism),
                plain.mechanism_info(plain.slot_of(made.tokens[0].label), mechanism),
            )
            assert ours == theirs, hex(mechanism)
    assert one.mechanism_info(slot, 0x80001234)[0] == ck.CKR_MECHANISM_INVALID


def test_what_is_not_offered_does_not_travel(one: Client, user: int) -> None:
    key = aes_key(one, user, token=False)
    assert one.start("Encrypt", user, 0x80001234, key) == ck.CKR_MECHANISM_INVALID
    assert one.start("Encrypt", user, (ck.CKM_AES_XTS, bytes(16)), key) == ck.CKR_MECHANISM_INVALID
    # no operation was opened by that
    assert one.start("Encrypt", user, ck.CKM_AES_ECB, key) == ck.CKR_OK


def test_enumeration_with_all_members_down(made: TestGroup, group: Group) -> None:
    down = group(label="down")
    with client(down.module, down.environment) as up:
        expected = [
            (up.slots(), up.token_info(slot), up.slot_info(slot), up.mechanisms(slot)) for slot in up.slots()[1]
        ]
    for index in range(3):
        down.put_module(index, MODULE, {"SOFTHSM2_CONF": "/nonexistent/softhsm2.conf"})
    with client(down.module, down.environment) as application:
        (slot,) = application.slots()[1]
        seen = (application.slots(), application.token_info(slot), application.slot_info(slot))
        assert [(*seen, application.mechanisms(slot))] == expected
        assert not helpers("down")  # nobody was asked
        assert application.open(slot)[0] == ck.CKR_DEVICE_ERROR
        assert application.open(slot)[0] == ck.CKR_TOKEN_NOT_PRESENT
        assert (application.slots(), application.token_info(slot), application.slot_info(slot)) == seen
        assert application.finalize() == ck.CKR_OK


def test_members_own_slots_without_ha_only(group: Group) -> None:
    made = group(label="open")
    rewrite(made, ha_only=False)
    with client(made.module, made.environment) as application:
        slots = application.slots()[1]
        labels = [application.token_info(slot)[1][:32].decode().rstrip() for slot in slots]
        assert labels == [*(token.label for token in made.tokens), "open"]
        serials = [application.token_info(slot)[1][80:96].decode() for slot in slots]
        assert serials[:3] == [token.serial for token in made.tokens]
        assert not helpers("open")
        # A member's own slot is that token, with no HA: what is made there is there alone, and nothing is hidden.
        own = application.logged_in(slots[1])
        assert application.find(own, {ck.CKA_CLASS: ck.CKO_SECRET_KEY})[1]
        aes_key(application, own, b"alone")
        virtual = application.logged_in(slots[3])
        assert application.find(virtual, {ck.CKA_LABEL: b"alone"}) == (ck.CKR_OK, [])
        assert application.find(virtual, {ck.CKA_CLASS: ck.CKO_SECRET_KEY}) == (ck.CKR_OK, [])
        other = application.logged_in(slots[0])
        assert application.find(other, {ck.CKA_LABEL: b"alone"}) == (ck.CKR_OK, [])
        # Each has a login of its own.
        assert application.logout(own) == ck.CKR_OK
        assert application.state(virtual)[1] == application.state(other)[1] == ck.CKS_RW_USER_FUNCTIONS
        assert application.state(own)[1] == ck.CKS_RW_PUBLIC_SESSION


# Sessions


def test_sessions_are_counted_and_told_apart(one: Client, slot: int) -> None:
    def counted() -> tuple[int, ...]:
        return struct.unpack("<QQQQ", one.token_info(slot)[1][104:136])

    assert counted()[1::2] == (0, 0)
    opened = [one.open(slot, flags)[1] for flags in (RW, RO, RO)]
    assert len({*opened}) == 3
    assert counted()[1::2] == (3, 1)
    assert [one.state(session)[1] for session in opened] == [2, 0, 0]
    assert one.login(opened[1], "1234") == ck.CKR_OK
    assert [one.state(session)[1] for session in opened] == [3, 1, 1]
    assert one.close(opened[0]) == ck.CKR_OK
    assert counted()[1::2] == (2, 0)
    for again in (one.close(opened[0]), one.state(opened[0])[0], one.login(opened[0], "1234")):
        assert again == ck.CKR_SESSION_HANDLE_INVALID
    assert one.close_all(slot) == ck.CKR_OK
    assert counted()[1::2] == (0, 0)
    assert one.state(opened[1])[0] == ck.CKR_SESSION_HANDLE_INVALID


def test_parallel_sessions_are_refused(one: Client, slot: int) -> None:
    assert one.open(slot, 2)[0] == ck.CKR_SESSION_PARALLEL_NOT_SUPPORTED
    assert one.open(slot, 0)[0] == ck.CKR_SESSION_PARALLEL_NOT_SUPPORTED


def test_a_read_only_session_changes_no_token_object(one: Client, slot: int, user: int) -> None:
    key = aes_key(one, user, b"read-only")
    rv, reader = one.open(slot, RO)
    assert rv == ck.CKR_OK
    data = {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_TOKEN: True, ck.CKA_LABEL: b"ro", ck.CKA_VALUE: b"x"}
    assert one.create(reader, data)[0] == ck.CKR_SESSION_READ_ONLY
    template = {ck.CKA_TOKEN: True, ck.CKA_VALUE_LEN: 32}
    assert one.generate(reader, ck.CKM_AES_KEY_GEN, template)[0] == ck.CKR_SESSION_READ_ONLY
    assert one.destroy(reader, key) == ck.CKR_SESSION_READ_ONLY
    assert one.set(reader, key, {ck.CKA_LABEL: b"other"}) == ck.CKR_SESSION_READ_ONLY
    assert one.copy(reader, key, {ck.CKA_LABEL: b"copy"})[0] == ck.CKR_SESSION_READ_ONLY
    assert one.call("C_SetPIN", reader, b"1234", 4, b"4321", 4) == ck.CKR_SESSION_READ_ONLY
    # session objects it may have
    rv, own = one.create(reader, {**data, ck.CKA_TOKEN: False})
    assert rv == ck.CKR_OK
    assert one.destroy(reader, own) == ck.CKR_OK
    assert one.start("Encrypt", reader, ck.CKM_AES_ECB, key) == ck.CKR_OK
    assert one.destroy(user, key) == ck.CKR_OK


def test_what_calls_answer_that_are_ours_alone(one: Client, slot: int, user: int) -> None:
    assert one.out("GetOperationState", user)[0] == ck.CKR_STATE_UNSAVEABLE
    assert one.call("C_SetOperationState", user, b"state", 5, 0, 0) == ck.CKR_SAVED_STATE_INVALID
    assert one.call("C_GetFunctionStatus", user) == ck.CKR_FUNCTION_NOT_PARALLEL
    assert one.call("C_CancelFunction", user) == ck.CKR_FUNCTION_NOT_PARALLEL
    for name in ("DigestEncryptUpdate", "DecryptDigestUpdate", "SignEncryptUpdate", "DecryptVerifyUpdate"):
        assert one.out(name, user, b"x")[0] == ck.CKR_FUNCTION_NOT_SUPPORTED
    assert one.feed("SeedRandom", user, b"seed") == ck.CKR_OK
    first, second = one.random(user, 32), one.random(user, 32)
    assert first[0] == second[0] == ck.CKR_OK
    assert first[1] != second[1]
    assert one.random(user, 0)[0] in (ck.CKR_OK, ck.CKR_ARGUMENTS_BAD)


def test_slot_events(made: TestGroup) -> None:
    with client(made.module, made.environment) as application:
        assert application.wait_for_slot_event(ck.CKF_DONT_BLOCK) == ck.CKR_NO_EVENT
        waiting: list[int] = []
        waiter = threading.Thread(target=lambda: waiting.append(application.wait_for_slot_event(0)))
        waiter.start()
        assert application.slots()[0] == ck.CKR_OK
        assert not waiting
        assert application.finalize() == ck.CKR_OK
        waiter.join(30)
        assert waiting == [ck.CKR_CRYPTOKI_NOT_INITIALIZED]


def test_initialize_twice_and_finalize_twice(made: TestGroup) -> None:
    with client(made.module, made.environment, initialize=False) as application:
        assert application.slots()[0] == ck.CKR_CRYPTOKI_NOT_INITIALIZED
        assert application.finalize() == ck.CKR_CRYPTOKI_NOT_INITIALIZED
        assert application.initialize(flags=ck.CKF_OS_LOCKING_OK, reserved=8) == ck.CKR_ARGUMENTS_BAD
        assert application.initialize(flags=0, mutexes=2) == ck.CKR_ARGUMENTS_BAD
        assert application.initialize(flags=ck.CKF_OS_LOCKING_OK | 1, mutexes=4) == ck.CKR_OK
        assert application.initialize() == ck.CKR_CRYPTOKI_ALREADY_INITIALIZED
        slot = application.slot_of(made.label)
        session = application.logged_in(slot)
        assert application.raw("C_Finalize", 8) == ck.CKR_ARGUMENTS_BAD
        assert application.finalize() == ck.CKR_OK
        assert application.state(session)[0] == ck.CKR_CRYPTOKI_NOT_INITIALIZED
        assert application.initialize() == ck.CKR_OK
        assert application.slot_of(made.label) == slot
        assert application.state(session)[0] == ck.CKR_SESSION_HANDLE_INVALID
        fresh = application.open(slot)[1]
        assert application.state(fresh) == (ck.CKR_OK, ck.CKS_RW_PUBLIC_SESSION)


def test_a_wrong_configuration_is_an_error_and_says_why(made: TestGroup, group: Group) -> None:
    wrong = group(members=1, label="wrong")
    wrong.conf.write_text(wrong.conf.read_text().replace("[[group]]", "[[group]]\ncolour = 3", 1))
    with client(wrong.module, wrong.environment, initialize=False) as application:
        assert application.initialize() == ck.CKR_GENERAL_ERROR
        assert application.slots()[0] == ck.CKR_CRYPTOKI_NOT_INITIALIZED


# Handles


def test_each_kind_of_unknown_handle(one: Client, user: int) -> None:
    key = aes_key(one, user, token=False)
    assert one.get(user, 999_999, ck.CKA_LABEL)[0] == ck.CKR_OBJECT_HANDLE_INVALID
    assert one.destroy(user, 999_999) == ck.CKR_OBJECT_HANDLE_INVALID
    assert one.destroy(user, 0) == ck.CKR_OBJECT_HANDLE_INVALID
    assert one.copy(user, 999_999, {})[0] == ck.CKR_OBJECT_HANDLE_INVALID
    assert one.start("Sign", user, ck.CKM_ECDSA, 999_999) == ck.CKR_KEY_HANDLE_INVALID
    mechanism = struct.pack("<QQQ", ck.CKM_AES_KEY_WRAP, 0, 0)
    room = [bytes(64), struct.pack("<Q", 64)]
    assert one.call("C_WrapKey", user, mechanism, 999_999, key, *room) == ck.CKR_WRAPPING_KEY_HANDLE_INVALID
    assert one.call("C_WrapKey", user, mechanism, key, 999_999, *room) == ck.CKR_KEY_HANDLE_INVALID
    rv = one.call("C_UnwrapKey", user, mechanism, 999_999, bytes(16), 16, None, 0, bytes(8))
    assert rv == ck.CKR_UNWRAPPING_KEY_HANDLE_INVALID
    assert one.start("Digest", user, ck.CKM_SHA256) == ck.CKR_OK
    assert one.call("C_DigestKey", user, 999_999) == ck.CKR_KEY_HANDLE_INVALID


def test_session_objects_end_with_their_session(one: Client, slot: int, user: int) -> None:
    other = one.open(slot)[1]
    key = aes_key(one, other, token=False)
    template = {ck.CKA_LABEL: b"aes", ck.CKA_TOKEN: False}
    assert one.find(user, template) == (ck.CKR_OK, [key])
    assert one.start("Encrypt", user, ck.CKM_AES_ECB, key) == ck.CKR_OK
    assert one.out("Encrypt", user, bytes(16))[0] == ck.CKR_OK
    assert one.close(other) == ck.CKR_OK
    assert one.start("Encrypt", user, ck.CKM_AES_ECB, key) == ck.CKR_KEY_HANDLE_INVALID
    assert one.find(user, template) == (ck.CKR_OK, [])


def test_logout_voids_private_objects_and_keeps_public_ones(one: Client, slot: int, user: int) -> None:
    public, private = ec_pair(one, user, b"void")
    assert one.sign(user, ck.CKM_ECDSA, private, bytes(32))[0] == ck.CKR_OK
    assert one.logout(user) == ck.CKR_OK
    assert one.start("Sign", user, ck.CKM_ECDSA, private) == ck.CKR_KEY_HANDLE_INVALID
    assert one.get(user, public, ck.CKA_LABEL) == (ck.CKR_OK, b"void")
    assert one.find(user, {ck.CKA_LABEL: b"void", ck.CKA_CLASS: ck.CKO_PRIVATE_KEY}) == (ck.CKR_OK, [])
    assert one.login(user, "1234") == ck.CKR_OK
    (again,) = one.find(user, {ck.CKA_LABEL: b"void", ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})[1]
    assert again != private
    assert one.sign(user, ck.CKM_ECDSA, again, bytes(32))[0] == ck.CKR_OK
    assert one.destroy(user, again) == one.destroy(user, public) == ck.CKR_OK


def test_a_destroyed_object_is_gone_for_every_session(one: Client, slot: int, user: int) -> None:
    key = aes_key(one, user, b"gone")
    other = one.open(slot)[1]
    assert one.destroy(other, key) == ck.CKR_OK
    assert one.start("Encrypt", user, ck.CKM_AES_ECB, key) == ck.CKR_KEY_HANDLE_INVALID
    assert one.get(user, key, ck.CKA_LABEL)[0] == ck.CKR_OBJECT_HANDLE_INVALID


# Operations, call by call as plain SoftHSM answers

Step = Callable[[Client, int, dict[str, int]], object]

STEPS: dict[str, list[Step]] = {
    "size, small buffer, done, finished": [
        lambda c, s, k: c.start("Sign", s, ck.CKM_ECDSA, k["private"]),
        lambda c, s, k: c.out("Sign", s, bytes(32), None)[:2],
        lambda c, s, k: c.out("Sign", s, bytes(32), 10)[:2],
        lambda c, s, k: c.out("Sign", s, bytes(32))[:2],
        lambda c, s, k: c.out("Sign", s, bytes(32))[:1],
    ],
    "started twice": [
        lambda c, s, k: c.start("Sign", s, ck.CKM_ECDSA, k["private"]),
        lambda c, s, k: c.start("Sign", s, ck.CKM_ECDSA, k["private"]),
        lambda c, s, k: c.start("Verify", s, ck.CKM_ECDSA, k["public"]),
        lambda c, s, k: c.start("Digest", s, ck.CKM_SHA256),
        lambda c, s, k: c.out("Sign", s, bytes(32))[:2],
    ],
    "without a start": [
        lambda c, s, k: c.out("Sign", s, b"x")[:1],
        lambda c, s, k: c.feed("SignUpdate", s, b"x"),
        lambda c, s, k: c.out("SignFinal", s)[:1],
        lambda c, s, k: c.out("Encrypt", s, b"x")[:1],
        lambda c, s, k: c.out("DecryptUpdate", s, b"x")[:1],
        lambda c, s, k: c.feed("DigestUpdate", s, b"x"),
        lambda c, s, k: c.out("DigestFinal", s)[:1],
        lambda c, s, k: c.verify(s, b"x", b"y"),
        lambda c, s, k: c.find_next(s),
        lambda c, s, k: c.find_final(s),
    ],
    "an error ends it": [
        lambda c, s, k: c.start("Encrypt", s, ck.CKM_AES_ECB, k["aes"]),
        lambda c, s, k: c.out("Encrypt", s, bytes(15))[:1],
        lambda c, s, k: c.out("Encrypt", s, bytes(16))[:1],
        lambda c, s, k: c.start("Encrypt", s, ck.CKM_AES_ECB, k["aes"]),
        lambda c, s, k: c.out("Encrypt", s, bytes(16))[:2],
    ],
    "a wrong signature": [
        lambda c, s, k: c.start("Verify", s, ck.CKM_ECDSA, k["public"]),
        lambda c, s, k: c.verify(s, bytes(32), bytes(64)),
        lambda c, s, k: c.verify(s, bytes(32), bytes(64)),
        lambda c, s, k: c.start("Verify", s, ck.CKM_ECDSA, k["public"]),
        lambda c, s, k: c.verify(s, bytes(32), bytes(63)),
        lambda c, s, k: c.start("Verify", s, ck.CKM_ECDSA, k["public"]),
    ],
    "a key that is no such key": [
        lambda c, s, k: c.start("Sign", s, ck.CKM_ECDSA, k["aes"]),
        lambda c, s, k: c.start("Encrypt", s, ck.CKM_AES_ECB, k["private"]),
        lambda c, s, k: c.start("Sign", s, ck.CKM_ECDSA, k["private"]),
        lambda c, s, k: c.out("Sign", s, bytes(32))[:2],
    ],
    "multi-part and whole": [
        lambda c, s, k: c.start("Digest", s, ck.CKM_SHA256),
        lambda c, s, k: c.feed("DigestUpdate", s, b"one"),
        lambda c, s, k: c.feed("DigestUpdate", s, b"two"),
        lambda c, s, k: c.out("DigestFinal", s, room=None)[:2],
        lambda c, s, k: c.out("DigestFinal", s, room=31)[:2],
        lambda c, s, k: c.out("DigestFinal", s),
        lambda c, s, k: c.start("Digest", s, ck.CKM_SHA256),
        lambda c, s, k: c.out("Digest", s, b"onetwo"),
        lambda c, s, k: c.start("Sign", s, ck.CKM_SHA256_HMAC, k["aes"]),
    ],
    "whole after an update": [
        lambda c, s, k: c.start("Digest", s, ck.CKM_SHA256),
        lambda c, s, k: c.feed("DigestUpdate", s, b"one"),
        lambda c, s, k: c.out("Digest", s, b"two")[:1],
        lambda c, s, k: c.out("DigestFinal", s)[:1],
    ],
    "encryption in parts": [
        lambda c, s, k: c.start("Encrypt", s, (ck.CKM_AES_CBC_PAD, bytes(16)), k["aes"]),
        lambda c, s, k: c.out("EncryptUpdate", s, bytes(20))[:2],
        lambda c, s, k: c.out("EncryptUpdate", s, bytes(20), None)[:1],
        lambda c, s, k: c.out("EncryptUpdate", s, bytes(20))[:2],
        lambda c, s, k: c.out("EncryptFinal", s)[:2],
        lambda c, s, k: c.out("EncryptFinal", s)[:1],
    ],
    "a search twice, and a search beside a signature": [
        lambda c, s, k: c.find_init(s, {ck.CKA_LABEL: b"steps"}),
        lambda c, s, k: c.find_init(s, {ck.CKA_LABEL: b"steps"}),
        lambda c, s, k: (c.find_next(s, 1)[0], len(c.find_next(s, 100)[1])),
        lambda c, s, k: c.find_next(s),
        lambda c, s, k: c.find_final(s),
        lambda c, s, k: c.find_final(s),
        lambda c, s, k: c.start("Sign", s, ck.CKM_ECDSA, k["private"]),
        lambda c, s, k: c.find_init(s, {ck.CKA_LABEL: b"steps"}),
        lambda c, s, k: c.out("Sign", s, bytes(32))[:2],
        lambda c, s, k: c.find_init(s, {ck.CKA_LABEL: b"steps"}),
    ],
    "a mechanism's parameter": [
        lambda c, s, k: c.start("Encrypt", s, (ck.CKM_AES_CBC, bytes(16)), k["aes"]),
        lambda c, s, k: c.out("Encrypt", s, bytes(16))[:2],
    ],
}


@pytest.fixture(scope="module")
def plain(made: TestGroup) -> Iterator[Client]:
    with client(MODULE, made.tokens[0].environment) as application:
        yield application


def prepared(of: Client, label: str) -> tuple[int, dict[str, int]]:
    slot = of.slot_of(label)
    session = of.logged_in(slot)
    public, private = ec_pair(of, session, b"steps", token=False)
    return session, {"public": public, "private": private, "aes": aes_key(of, session, b"steps", token=False)}


@pytest.mark.parametrize("name", STEPS)
def test_operations_are_answered_as_by_the_plain_token(
    name: str, one: Client, plain: Client, made: TestGroup, slot: int
) -> None:
    answers = []
    for of, label in ((one, made.label), (plain, made.tokens[0].label)):
        session, keys = prepared(of, label)
        answers.append([step(of, session, keys) for step in STEPS[name]])
        of.close(session)
    assert answers[0] == answers[1]


def test_a_session_that_closes_amid_an_operation_frees_its_member(one: Client, slot: int, user: int) -> None:
    _, private = ec_pair(one, user, token=False)
    for _ in range(200):
        session = one.open(slot)[1]
        assert one.start("Sign", session, ck.CKM_ECDSA, private) == ck.CKR_OK
        assert one.close(session) == ck.CKR_OK
    assert one.sign(user, ck.CKM_ECDSA, private, bytes(32))[0] == ck.CKR_OK


def test_session_cancel(one: Client, slot: int, user: int) -> None:
    assert one.start("Digest", user, ck.CKM_SHA256) == ck.CKR_OK
    assert one.find_init(user, {}) in (ck.CKR_OK, ck.CKR_OPERATION_ACTIVE)
    assert one.raw("C_SessionCancel", user, ck.CKF_DIGEST) == ck.CKR_OK
    assert one.feed("DigestUpdate", user, b"x") == ck.CKR_OPERATION_NOT_INITIALIZED
    assert one.raw("C_SessionCancel", user + 1000, ck.CKF_DIGEST) == ck.CKR_SESSION_HANDLE_INVALID


# Work spreads


def test_each_member_serves_its_share_and_the_log_says_so(group: Group) -> None:
    made = group(label="spread")
    rewrite(made, log_level=LogLevel.NOTICE)
    with client(made.module, made.environment) as application:
        session = application.logged_in(application.slot_of("spread"))
        _, private = ec_pair(application, session)
        for _ in range(60):
            assert application.sign(session, ck.CKM_ECDSA, private, bytes(32))[0] == ck.CKR_OK
        assert application.finalize() == ck.CKR_OK
    names = [token.label for token in made.tokens]
    assert f'notice: group "spread": served {" ".join(f"{name}=20" for name in names)}' in made.logged()


# Nonsense


def test_null_and_nonsense_for_every_function(one: Client, slot: int, user: int) -> None:
    """No crash, and never CKR_OK where something was to be given back."""
    left_out = {"C_Initialize", "C_Finalize", "C_WaitForSlotEvent", "C_CloseSession", "C_CloseAllSessions", "C_Logout"}
    for function in FUNCTIONS[:COUNT_2_40]:
        if function.route is Route.NATIVE or function.name in left_out:
            continue
        known = {Kind.SESSION: user, Kind.SLOT: slot}
        words = [known.get(argument.kind, 0) for argument in function.arguments for _ in KINDS[argument.kind].c]
        rv = one.raw(function.name, *words)
        gives = any(KINDS[argument.kind].flow is not Flow.IN for argument in function.arguments)
        if gives:
            assert rv != ck.CKR_OK, function.name
        assert rv not in (ck.CKR_GENERAL_ERROR, ck.CKR_DEVICE_ERROR), (function.name, rv_name(rv))
        # lengths that nobody can mean
        huge = [2**63 if ctype == "CK_ULONG" else word for word, ctype in zip(words, _types(function), strict=True)]
        rv = one.raw(function.name, *huge)
        assert rv not in (ck.CKR_GENERAL_ERROR, ck.CKR_DEVICE_ERROR), (function.name, rv_name(rv))
        one.raw("C_SessionCancel", user, 2**32 - 1)
    assert one.state(user)[0] == ck.CKR_OK
    assert len(helpers(DEMO)) == 3


def _types(function: Function) -> list[str]:
    return [ctype for argument in function.arguments for ctype, _ in KINDS[argument.kind].c]


# Unmodified clients


@pytest.mark.parametrize("arguments", [["--test-fork"], ["--test-threads", "ILGISLT0", "--test-threads", "ILGISLT0"]])
def test_pkcs11_tool(made: TestGroup, arguments: list[str]) -> None:
    command = ["pkcs11-tool", "--module", made.module, *arguments]
    done = subprocess.run(command, env={**os.environ, **made.environment}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "aborting" not in done.stderr.lower()
