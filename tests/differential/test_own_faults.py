"""What the comparison takes for a fault of the call itself: too much of it would excuse wrong answers."""

import struct
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from tests.differential import own_faults
from tests.differential.calls import Call, Closed, Gone, K, S
from tests.differential.worker import MISSING, Null

_CBC, _ECDSA = (ck.CKM_AES_CBC, bytes(16)), (ck.CKM_ECDSA, None)


def _exists(symbol: Any) -> bool:
    return bool(symbol == K("aes"))


def _gcm(*iv: Any) -> tuple[int, tuple[Any, ...]]:
    return ck.CKM_AES_GCM, (*iv, 96, ("pointer", b"associated"), 128)


def _words(*values: int) -> bytes:
    return struct.pack("<6Q", *values)


@pytest.mark.parametrize(
    ("call", "faults"),
    [
        (Call("C_EncryptInit", (S(0), _CBC, K("aes"))), set()),
        (Call("C_SignInit", (S(0), _ECDSA, K("aes"))), set()),
        (Call("C_EncryptInit", (S(0), (ck.CKM_AES_CBC, b"short"), K("aes"))), {ck.CKR_MECHANISM_PARAM_INVALID}),
        (Call("C_EncryptInit", (S(0), (ck.CKM_AES_CBC, None), K("aes"))), {ck.CKR_MECHANISM_PARAM_INVALID}),
        (Call("C_EncryptInit", (S(0), (0x80000001, None), K("aes"))), {ck.CKR_MECHANISM_INVALID}),
        (Call("C_EncryptInit", (S(0), (ck.CKM_AES_CBC, Null(16)), K("aes"))), {ck.CKR_MECHANISM_PARAM_INVALID}),
        (Call("C_EncryptInit", (S(0), (ck.CKM_AES_ECB, b"junk"), K("aes"))), {ck.CKR_MECHANISM_PARAM_INVALID}),
        (Call("C_EncryptInit", (S(0), _gcm(("pointer", b"iv")), K("aes"))), set()),
        (Call("C_EncryptInit", (S(0), _gcm(0, 12), K("aes"))), {ck.CKR_MECHANISM_PARAM_INVALID}),
        (Call("C_EncryptInit", (S(0), None, K("aes"))), {ck.CKR_ARGUMENTS_BAD}),
        (Call("C_FindObjectsInit", (S(0), ((ck.CKA_ID, b"id"),))), set()),
        (
            Call("C_FindObjectsInit", (S(0), ((ck.CKA_ID, Null(2)),))),
            {ck.CKR_ATTRIBUTE_VALUE_INVALID, ck.CKR_ARGUMENTS_BAD},
        ),
        (Call("C_Initialize", (None,)), set()),
        (Call("C_Initialize", (_words(0, 0, 0, 0, 2, 0),)), set()),
        (Call("C_Initialize", (_words(0, 0, 0, 0, 2, 1),)), {ck.CKR_ARGUMENTS_BAD}),
        (Call("C_Initialize", (_words(1, 0, 0, 0, 2, 0),)), {ck.CKR_ARGUMENTS_BAD}),
        (Call("C_Finalize", (b"reserved",)), {ck.CKR_ARGUMENTS_BAD}),
        (Call("C_EncryptInit", (Closed(), _CBC, Gone(0))), {ck.CKR_SESSION_HANDLE_INVALID, ck.CKR_KEY_HANDLE_INVALID}),
        (Call("C_Encrypt", (S(0), b"", None)), set()),
        (Call("C_Encrypt", (S(0), Null(16), 512)), {ck.CKR_ARGUMENTS_BAD}),
        (Call("C_Encrypt", (S(0), b"x", MISSING)), {ck.CKR_ARGUMENTS_BAD}),
        (Call("C_CopyObject", (S(0), K("aes"), (), None), ""), {ck.CKR_ARGUMENTS_BAD}),
    ],
)
def test_faults_of_arguments(call: Call, faults: set[int]) -> None:
    assert own_faults.of_arguments(call, _exists) == faults


@pytest.mark.parametrize(
    ("call", "writes"),
    [
        (Call("C_CreateObject", (S(0), ((ck.CKA_TOKEN, True),), True), "aes"), True),
        (Call("C_CreateObject", (S(0), ((ck.CKA_TOKEN, False),), True), "aes"), False),
        (Call("C_DestroyObject", (S(0), K("aes"))), True),
        (Call("C_DestroyObject", (S(0), K("rsa"))), False),
        (Call("C_SignInit", (S(0), _ECDSA, K("aes"))), False),
        (Call("C_SetPIN", (S(0), b"1234", b"1234")), True),
    ],
)
def test_what_a_read_only_session_may_not_do(call: Call, writes: bool) -> None:
    assert own_faults.writes_token(call, _exists) is writes
