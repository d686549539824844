"""The smallest sequences of what the comparison once found, so that it stays mended."""

import pytest

from pyha.cryptoki import constants as ck
from tests.differential.calls import Call, K, S
from tests.differential.play import Tally, play
from tests.differential.scene import Scene
from tests.differential.sequences import create, log_in, open_session

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

FOUND = {
    "public session objects are found after a logout": [
        *(open_session(), log_in(), create("aes"), create("aes", private=True), _LOGOUT, *_SESSION_OBJECTS)
    ],
    "a public session key works after a logout": [open_session(), log_in(), create("aes"), _LOGOUT, *_ENCRYPT],
    "a public token key works after a logout": [
        *(open_session(), log_in(), create("aes", token=True), _LOGOUT, *_ENCRYPT, log_in(), *_ENCRYPT)
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
