"""Every template of every creating call with one value wrong, one attribute too many or one missing: on the bare module
and on the slot. `make differential` tries them all, a plain run every so many."""

from collections.abc import Iterator
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from tests.differential.calls import Call, S
from tests.differential.drawn import EXAMPLES
from tests.differential.material import GENERATED, OBJECTS, PAIRS, Pairs
from tests.differential.play import Tally, play
from tests.differential.scene import Scene
from tests.differential.sequences import STRANGE, log_in, open_session
from tests.differential.wrong import values

_FLAGS = (
    *(ck.CKA_SENSITIVE, ck.CKA_EXTRACTABLE, ck.CKA_SIGN, ck.CKA_VERIFY, ck.CKA_UNWRAP, ck.CKA_ALWAYS_AUTHENTICATE),
    *(ck.CKA_ALWAYS_SENSITIVE, ck.CKA_NEVER_EXTRACTABLE, ck.CKA_WRAP_WITH_TRUSTED),
)
_ADDED: Pairs = (
    *STRANGE,
    *((flag, True) for flag in _FLAGS),
    (ck.CKA_MODULUS, b"x"),
    (ck.CKA_EC_POINT, b"x"),
    (ck.CKA_WRAP_TEMPLATE, b""),
    (ck.CKA_START_DATE, b"20260101"),
    (ck.CKA_START_DATE, b"x"),
    (ck.CKA_CHECK_VALUE, b"abc"),
    (ck.CKA_VALUE_LEN, 16),
    (ck.CKA_CERTIFICATE_TYPE, 0),
    (ck.CKA_ALLOWED_MECHANISMS, b"\1"),
)
_EVERY = 1 if EXAMPLES else 17
_AT_ONCE = 12
"""Calls of one sequence: tokens do not get full, and a difference ends little."""


def _wrong(right: Pairs) -> Iterator[tuple[tuple[int, Any], ...]]:
    for at, (attribute, value) in enumerate(right):
        yield (*right[:at], *right[at + 1 :])
        for each in values(value):
            yield (*right[:at], (attribute, each), *right[at + 1 :])
    for attribute, value in _ADDED:
        yield tuple({**dict(right), attribute: value}.items())


def _calls(*flags: tuple[int, bool]) -> Iterator[Call]:
    for kind, base in OBJECTS.items():
        for template in _wrong((*base, *flags)):
            yield Call("C_CreateObject", (S(0), template, True), kind)
    for kind, (mechanism, base) in GENERATED.items():
        for template in _wrong((*base, *flags)):
            yield Call("C_GenerateKey", (S(0), (mechanism, None), template, True), kind)
    mechanism, public, private = PAIRS["made-ec"]
    public, private = (*public, *flags), (*private, *flags)
    templates = [(each, private) for each in _wrong(public)] + [(public, each) for each in _wrong(private)]
    for pair in templates:
        yield Call("C_GenerateKeyPair", (S(0), (mechanism, None), *pair, True, True), "made-ec")


@pytest.mark.parametrize("token", [False, True], ids=["session", "token"])
def test_a_template_with_something_wrong_is_answered_alike(
    scene: Scene, token: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally()
    calls = list(_calls((ck.CKA_TOKEN, token), (ck.CKA_PRIVATE, token)))[token * 7 :: _EVERY]
    while calls:
        done = tally.calls
        play(scene, [open_session(), log_in(), *calls[:_AT_ONCE]], tally)
        # A tolerated difference after which the sides are apart ends a sequence before its last call.
        calls = calls[max(tally.calls - done - 2, 1) :]
    with capsys.disabled():
        print(f"\n{tally}" if EXAMPLES else "")
    assert tally.complete > 0
