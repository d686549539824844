"""The smallest sequences of what the comparison once found, so that it stays mended."""

import pytest

from pyha.cryptoki import constants as ck
from tests.differential.calls import Call, K, S
from tests.differential.material import GENERATED, PAIRS, Pairs
from tests.differential.play import Tally, play
from tests.differential.scene import Scene
from tests.differential.sequences import SO_PIN, create, log_in, open_session

_LOGOUT = Call("C_Logout", (S(0),))
_SESSION_OBJECTS = (
    Call("C_FindObjectsInit", (S(0), ((ck.CKA_TOKEN, False),))),
    Call("C_FindObjects", (S(0), 100)),
    Call("C_FindObjectsFinal", (S(0),)),
)
_ENCRYPT = (
    Call("C_EncryptInit", (S(0), (ck.CKM_AES_ECB, None), K("aes"))),
    Call("C_Encrypt", (S(0), bytes(16), 512)),
)

_PRIVATE_KEY = ((ck.CKA_TOKEN, True), (ck.CKA_PRIVATE, True), *GENERATED["made-aes"][1])


def _ec_pair(public: Pairs = (), private: Pairs = ()) -> Call:
    mechanism, first, second = PAIRS["made-ec"]
    token = ((ck.CKA_TOKEN, True), (ck.CKA_PRIVATE, False))
    templates = (tuple(dict((*each, *token, *more)).items()) for each, more in ((first, public), (second, private)))
    return Call("C_GenerateKeyPair", (S(0), (mechanism, None), *templates, True, True), "made-ec")


def _secret(*more: tuple[int, bool | int | bytes]) -> Call:
    mechanism, template = GENERATED["made-generic"]
    named = dict((*template, (ck.CKA_TOKEN, True), (ck.CKA_PRIVATE, False), *more))
    return Call("C_GenerateKey", (S(0), (mechanism, None), tuple(named.items()), True), "made-generic")


FOUND = {
    "public session objects are found after a logout": [
        *(open_session(), log_in(), create("aes"), create("aes", private=True), _LOGOUT, *_SESSION_OBJECTS)
    ],
    "a public session key works after a logout": [open_session(), log_in(), create("aes"), _LOGOUT, *_ENCRYPT],
    "a public token key works after a logout": [
        *(open_session(), log_in(), create("aes", token=True), _LOGOUT, *_ENCRYPT, log_in(), *_ENCRYPT)
    ],
    "what an SO may not do costs the session no objects": [
        *(open_session(), log_in(SO_PIN, ck.CKU_SO), create("aes"), *_ENCRYPT, create("aes", private=True), *_ENCRYPT),
        *(Call("C_GenerateKey", (S(0), (ck.CKM_AES_KEY_GEN, None), _PRIVATE_KEY, True), "made-aes"), *_ENCRYPT),
    ],
    "what a public key does not have is refused": [
        *(open_session(), log_in(), _ec_pair(), _ec_pair(public=((ck.CKA_EXTRACTABLE, True),))),
        *(_ec_pair(public=((each, True),)) for each in (ck.CKA_ALWAYS_AUTHENTICATE, ck.CKA_WRAP_WITH_TRUSTED)),
    ],
    "what a secret key does not have is refused": [
        *(open_session(), log_in(), _secret(), _secret((ck.CKA_ALWAYS_AUTHENTICATE, True))),
    ],
    "a flag of two bytes is refused": [
        *(open_session(), log_in(), _secret((ck.CKA_EXTRACTABLE, b"\1\0"))),
        *(_ec_pair(private=((ck.CKA_EXTRACTABLE, b""),)), create("aes", token=b"\1\0")),
    ],
    "what was refused is not found, and all else is": [
        *(open_session(), log_in(), create("aes"), create("aes", always_authenticate=False), *_SESSION_OBJECTS),
        *(Call("C_FindObjectsInit", (S(0), ())), *[Call("C_FindObjects", (S(0), 1))] * 3),
    ],
    "an empty template changes nothing": [
        *(open_session(), create("aes"), Call("C_SetAttributeValue", (S(0), K("aes"), ()))),
        *(Call("C_CopyObject", (S(0), K("aes"), (), True), ""), *_SESSION_OBJECTS),
    ],
    "no template at all is no empty one": [
        *(open_session(), create("aes"), Call("C_SetAttributeValue", (S(0), K("aes"), None))),
        Call("C_CopyObject", (S(0), K("aes"), None, True), ""),
        *(Call("C_FindObjectsInit", (S(0), None)), Call("C_FindObjects", (S(0), 100))),
    ],
}


@pytest.mark.parametrize("name", FOUND)
def test_found(scene: Scene, name: str) -> None:
    tally = Tally()
    play(scene, FOUND[name], tally)
    assert tally.complete == 1
    assert not tally.tolerated
