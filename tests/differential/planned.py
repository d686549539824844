"""Sequences by plan: every function of the table, with success wherever SoftHSM has it, as what is drawn at random need
not reach each of them in each run. Here are the mechanisms whole and in parts too, with sizes asked for and too little
room in the middle, and with parameters that are odd and not wrong.
"""

from pyha.cryptoki import constants as ck
from tests.differential.calls import Call, K, Result, S, Slot, Taken
from tests.differential.material import CIPHERS, DERIVATIONS, DIGESTS, GENERATED, PAIRS, SIGNERS, WRAPPERS, Described
from tests.differential.sequences import RO, SO_PIN, Calls, create, half, log_in, open_session

_KEYS = ("aes", "generic", "rsa-private", "rsa-public", "ec-private", "ec-public", "des3")
_START = [open_session(), log_in(), *(create(kind) for kind in _KEYS)]
_DUAL = ("C_DigestEncryptUpdate", "C_DecryptDigestUpdate", "C_SignEncryptUpdate", "C_DecryptVerifyUpdate")
NEVER_OK = {
    **dict.fromkeys(
        (
            *("C_GetOperationState", "C_SetOperationState", "C_SignRecoverInit", "C_SignRecover"),
            *("C_VerifyRecoverInit", "C_VerifyRecover", *_DUAL),
        ),
        "CKR_FUNCTION_NOT_SUPPORTED",
    ),
    **dict.fromkeys(("C_GetFunctionStatus", "C_CancelFunction"), "CKR_FUNCTION_NOT_PARALLEL"),
    "C_WaitForSlotEvent": "CKR_NO_EVENT",
}
"""What no call of a function succeeds in with SoftHSM, and its answer."""
ELSEWHERE = {"C_InitToken"}
"""Answered otherwise on the slot, on purpose (`tolerated`)."""
_BLOCKS = (bytes(range(16)), bytes(16))


def _in_parts(of: str, data: tuple[object, ...]) -> Calls:
    """Updates, and the end: each asked for its size first, then with too little room."""
    calls = [Call(f"C_{of}Update", (S(0), each, room)) for each in data for room in (None, 1, 512)]
    return [*calls, *(Call(f"C_{of}Final", (S(0), room)) for room in (None, 0, 512))]


def _cipher(kind: str, mechanism: Described) -> Calls:
    begin = Call("C_EncryptInit", (S(0), mechanism, K(half(kind, public=True))))
    back = Call("C_DecryptInit", (S(0), mechanism, K(half(kind, public=False))))
    data = bytes(range(16)) if mechanism[0] != ck.CKM_RSA_X_509 else bytes(range(128))
    whole = [Call("C_Encrypt", (S(0), data, room)) for room in (None, 1, 512)]
    calls = [begin, *whole, back, *(Call("C_Decrypt", (S(0), Result("Encrypt"), room)) for room in (None, 512))]
    if kind == "rsa":
        return calls
    return [*calls, begin, *_in_parts("Encrypt", _BLOCKS), back, *_in_parts("Decrypt", (Result("Encrypt"),))]


def _signer(kind: str, mechanism: Described) -> Calls:
    begin = Call("C_SignInit", (S(0), mechanism, K(half(kind, public=False))))
    check = Call("C_VerifyInit", (S(0), mechanism, K(half(kind, public=True))))
    data = bytes(range(128)) if mechanism[0] == ck.CKM_RSA_X_509 else bytes(range(32))
    return [
        *(begin, *(Call("C_Sign", (S(0), data, room)) for room in (None, 1, 512))),
        *(check, Call("C_Verify", (S(0), Taken("Sign"), Result("Sign")))),
        *(check, Call("C_Verify", (S(0), Taken("Sign"), Result("Sign", flipped=True)))),
        *(begin, *(Call("C_SignUpdate", (S(0), part)) for part in (data[:5], data[5:]))),
        *(Call("C_SignFinal", (S(0), room)) for room in (None, 1, 512)),
        *(check, Call("C_VerifyUpdate", (S(0), Taken("Sign"))), Call("C_VerifyFinal", (S(0), Result("Sign")))),
    ]


def _digest(mechanism: Described) -> Calls:
    begin = Call("C_DigestInit", (S(0), mechanism))
    return [
        *(begin, *(Call("C_Digest", (S(0), b"some text", room)) for room in (None, 1, 512))),
        *(begin, Call("C_DigestUpdate", (S(0), b"some ")), Call("C_DigestKey", (S(0), K("generic")))),
        *(Call("C_DigestUpdate", (S(0), b"text")), *(Call("C_DigestFinal", (S(0), room)) for room in (None, 1, 512))),
    ]


def _wrapper(kind: str, mechanism: Described) -> Calls:
    template = (
        *((ck.CKA_CLASS, ck.CKO_SECRET_KEY), (ck.CKA_KEY_TYPE, ck.CKK_AES), (ck.CKA_ENCRYPT, True)),
        *((ck.CKA_TOKEN, False), (ck.CKA_PRIVATE, False), (ck.CKA_SENSITIVE, False), (ck.CKA_EXTRACTABLE, True)),
    )
    by, back = K(half(kind, public=True)), K(half(kind, public=False))
    wraps = [Call("C_WrapKey", (S(0), mechanism, by, K("aes"), room)) for room in (None, 1, 512)]
    return [*wraps, Call("C_UnwrapKey", (S(0), mechanism, back, Result("Wrap"), template, True), "aes")]


def _derivation(kind: str, mechanism: Described) -> Call:
    template = (
        *((ck.CKA_CLASS, ck.CKO_SECRET_KEY), (ck.CKA_KEY_TYPE, ck.CKK_GENERIC_SECRET), (ck.CKA_VALUE_LEN, 16)),
        *((ck.CKA_TOKEN, False), (ck.CKA_PRIVATE, False), (ck.CKA_SENSITIVE, False), (ck.CKA_EXTRACTABLE, True)),
    )
    return Call("C_DeriveKey", (S(0), mechanism, K(kind), template, True), "derived")


def _made(*flags: tuple[int, bool]) -> Calls:
    calls = [
        Call("C_GenerateKey", (S(0), (how, None), (*base, *flags), True), kind)
        for kind, (how, base) in GENERATED.items()
    ]
    for kind, (how, public, secret) in PAIRS.items():
        calls.append(
            Call("C_GenerateKeyPair", (S(0), (how, None), (*public, *flags), (*secret, *flags), True, True), kind)
        )
    return calls


_PUBLIC_SESSION = ((ck.CKA_TOKEN, False), (ck.CKA_PRIVATE, False))

PLANNED: dict[str, Calls] = {
    "what is asked of modules, slots and tokens": [
        *(Call("C_GetInfo", (True,)), Call("C_GetFunctionList", (True,))),
        *(Call("C_GetSlotList", (present, room)) for present in (0, 1) for room in (None, 64)),
        *(Call("C_GetSlotInfo", (Slot(), True)), Call("C_GetTokenInfo", (Slot(), True))),
        *(Call("C_GetMechanismList", (Slot(), room)) for room in (None, 1, 500)),
        *(Call("C_GetMechanismInfo", (Slot(), each, True)) for each in (ck.CKM_SHA256, ck.CKM_RSA_PKCS, 0x80000001)),
        Call("C_WaitForSlotEvent", (ck.CKF_DONT_BLOCK, True, None)),
        *(open_session(), Call("C_GetSessionInfo", (S(0), True)), Call("C_GetFunctionStatus", (S(0),))),
        *(Call("C_CancelFunction", (S(0),)), Call("C_SeedRandom", (S(0), b"seed"))),
        *(Call("C_GenerateRandom", (S(0), room)) for room in (0, 1, 100, None)),
    ],
    "sessions, logins and PINs": [
        *(open_session(), open_session(RO), log_in(b"wrong"), log_in(), log_in()),
        *(Call("C_SetPIN", (S(0), b"1234", b"4321")), Call("C_SetPIN", (S(0), b"1234", b"1234"))),
        *(Call("C_SetPIN", (S(1), b"4321", b"1234")), Call("C_Logout", (S(0),)), log_in(SO_PIN, ck.CKU_SO)),
        *(Call("C_CloseSession", (S(1),)), log_in(SO_PIN, ck.CKU_SO), Call("C_InitPIN", (S(0), b"1234"))),
        *(Call("C_CloseAllSessions", (Slot(),)), open_session(), log_in(), Call("C_GetSessionInfo", (S(0), True))),
        *(Call("C_Finalize", (None,)), Call("C_Initialize", (None,)), open_session()),
    ],
    "objects": [
        *(open_session(), log_in(), create("aes", token=True, private=True), create("data", token=True)),
        *(create("certificate"), create("generic", token=True, private=True, extractable=False)),
        *(Call("C_GetObjectSize", (S(0), K(kind), True)) for kind in ("aes", "data", "certificate")),
        *(
            Call("C_CopyObject", (S(0), K(kind), ((ck.CKA_TOKEN, token),), True), "")
            for kind, token in (("aes", False), ("aes", True), ("data", False), ("certificate", False))
        ),
        *(Call("C_SetAttributeValue", (S(0), K(kind), ((ck.CKA_ID, b"new"),))) for kind in ("aes", "data")),
        Call("C_GetAttributeValue", (S(0), K("aes"), ((ck.CKA_ID, None), (ck.CKA_VALUE, 8), (ck.CKA_LABEL, 64)))),
        Call("C_GetAttributeValue", (S(0), K("aes"), ((ck.CKA_ID, 64), (ck.CKA_VALUE, 64), (ck.CKA_KEY_TYPE, 8)))),
        Call("C_GetAttributeValue", (S(0), K("generic"), ((ck.CKA_VALUE, 64), (ck.CKA_MODULUS, 64)))),
        *(Call("C_FindObjectsInit", (S(0), ((ck.CKA_ID, b"new"),))), *[Call("C_FindObjects", (S(0), 1))] * 4),
        *(Call("C_FindObjectsFinal", (S(0),)), *[Call("C_DestroyObject", (S(0), K("", 0)))] * 2),
        *(Call("C_FindObjectsInit", (S(0), ())), Call("C_FindObjects", (S(0), 100))),
    ],
    "keys that are made": [*_START, *_made(*_PUBLIC_SESSION), *_made((ck.CKA_TOKEN, True), (ck.CKA_PRIVATE, True))],
    "ciphers with AES": [*_START, *(c for kind, how in CIPHERS if kind == "aes" for c in _cipher(kind, how))],
    "ciphers with DES3": [*_START, *(c for kind, how in CIPHERS if kind == "des3" for c in _cipher(kind, how))],
    "digests": [*_START, *(call for mechanism in DIGESTS for call in _digest(mechanism))],
    "wrapping and derivation": [
        *(*_START, *(call for wrapper in WRAPPERS for call in _wrapper(*wrapper))),
        *(_derivation(*each) for each in DERIVATIONS),
    ],
    "encryption with RSA": [
        *(*_START, *(call for kind, how in CIPHERS if kind == "rsa" for call in _cipher(kind, how))),
        Call("C_EncryptInit", (S(0), (ck.CKM_RSA_PKCS, None), K("rsa-public"))),
        Call("C_EncryptUpdate", (S(0), bytes(16), 512)),  # SoftHSM has no parts there
    ],
    "signatures with RSA": [*_START, *(c for kind, how in SIGNERS if kind == "rsa" for c in _signer(kind, how))],
    "signatures with other keys": [
        *(*_START, *_made(*_PUBLIC_SESSION)),
        *(call for kind, how in SIGNERS if kind != "rsa" for call in _signer(kind, how)),
    ],
    "what SoftHSM does not have": [
        *_START,
        *(Call("C_GetOperationState", (S(0), None)), Call("C_SetOperationState", (S(0), b"state", 0, 0))),
        *(Call(f"C_{of}RecoverInit", (S(0), (ck.CKM_RSA_PKCS, None), K("rsa-private"))) for of in ("Sign", "Verify")),
        *(Call(f"C_{of}Recover", (S(0), b"data", 512)) for of in ("Sign", "Verify")),
        *(Call("C_DigestInit", (S(0), DIGESTS[0])), *(Call(name, (S(0), bytes(16), 512)) for name in _DUAL)),
        Call("C_DigestFinal", (S(0), 512)),
    ],
}
