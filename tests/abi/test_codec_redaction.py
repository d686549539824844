"""No content in a repr or in an exception's text: contents may be keys, PINs or plain text."""

from collections.abc import Callable
from typing import Any

import pytest

from pyha.abi.codec import Malformed, Refused
from pyha.abi.native import ffi
from pyha.abi.pins import keep
from pyha.cryptoki.constants import CKA_VALUE, CKA_WRAP_TEMPLATE, CKR_OK
from pyha.cryptoki.values import Attribute, Found, Mechanism, MemberInitialize, Out, Parameter, Query, Region
from tests.abi.codec_memory import Application, codec_of, written

SECRET = b"hunter2"


def pin() -> Any:
    return keep(ffi.from_buffer(SECRET), len(SECRET))


def decoded_login() -> Any:
    app = Application()
    return codec_of("C_Login").decode(app.struct("C_Login", session=1, user=1, pin=app.bytes(SECRET), pin_len=7))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Attribute(CKA_VALUE, SECRET),
        lambda: (Attribute(CKA_WRAP_TEMPLATE, (Attribute(CKA_VALUE, SECRET),)),),
        lambda: Found(CKA_VALUE, 7, SECRET),
        lambda: Mechanism(1, Parameter(SECRET, (Region(0, SECRET),))),
        lambda: MemberInitialize(SECRET),
        lambda: Query(CKA_VALUE, 7, None, SECRET),
        pin,
        decoded_login,
    ],
)
def test_reprs(make: Callable[[], Any]) -> None:
    assert "hunter2" not in repr(make())


def test_what_a_member_sent_is_not_in_the_error() -> None:
    codec = codec_of("C_Decrypt")
    values = [1, SECRET, Out(7)]
    arena = written(codec, values)
    arena.put(arena.words[3], SECRET)
    arena.put_ulong(arena.words[4], 8)
    with pytest.raises(Malformed) as nonsense:
        codec.read(arena, values, CKR_OK)
    assert str(nonsense.value) == "C_Decrypt result: 8 bytes reported for a buffer of 7."


def test_a_refusal_names_the_rv() -> None:
    assert str(Refused(0x13)) == "refused with 0x13"
    assert Refused(0x13).rv == 0x13
