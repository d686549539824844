"""What a token refuses in the templates of a pair or a key the slot refuses too, and nothing is left behind."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from tests.application import Answered, Application
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import P256, STAYS, Scene, scene

ODD: tuple[dict[int, Any], ...] = (
    {ck.CKA_EXTRACTABLE: True},
    {ck.CKA_SENSITIVE: True},
    {ck.CKA_ALWAYS_AUTHENTICATE: True},
    {ck.CKA_WRAP_WITH_TRUSTED: True},
    {ck.CKA_TRUSTED: True},
    {ck.CKA_DECRYPT: True},
    {ck.CKA_UNWRAP_TEMPLATE: {ck.CKA_SENSITIVE: True}},
    {ck.CKA_WRAP_TEMPLATE: {ck.CKA_SENSITIVE: True}},
    {ck.CKA_DERIVE_TEMPLATE: {ck.CKA_SENSITIVE: True}},
    {ck.CKA_START_DATE: b"2020"},
    {ck.CKA_ALLOWED_MECHANISMS: b"123"},
    {ck.CKA_MODIFIABLE: False},
    {ck.CKA_COPYABLE: b""},
    {ck.CKA_CHECK_VALUE: b"abc"},
    {ck.CKA_LOCAL: True},
    {0x80001234: b"?"},
)


@pytest.fixture(scope="module")
def both(group_of_module: Callable[..., TestGroup]) -> Iterator[tuple[Scene, Application]]:
    with scene(group_of_module(members=2)) as it, group_of_module(members=1, label="plain").member(0) as plain:
        yield it, plain


def answer(of: Application, kind: str, odd: dict[int, Any]) -> str:
    """What it says to a creation with this in the template."""
    public: dict[int, Any] = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_VERIFY: True, ck.CKA_LABEL: b"odd"}
    private: dict[int, Any] = {ck.CKA_TOKEN: True, ck.CKA_SIGN: True, ck.CKA_LABEL: b"odd"}
    try:
        if kind == "secret":
            of.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_VALUE_LEN: 16, ck.CKA_LABEL: b"odd", **odd})
        elif kind == "public":
            of.pair(ck.CKM_EC_KEY_PAIR_GEN, {**public, **odd}, private)
        else:
            of.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**private, **odd})
    except Answered as refused:
        return str(refused).split()[0]
    return "CKR_OK"


@pytest.mark.parametrize("kind", ["public", "private", "secret"])
def test_the_slot_says_what_the_token_says(both: tuple[Scene, Application], kind: str) -> None:
    it, plain = both
    for odd in ODD:
        if kind != "public" and ck.CKA_WRAP_WITH_TRUSTED in odd:
            continue  # no domain key may wrap it
        expected = answer(plain, kind, odd)
        assert (odd, answer(it.app, kind, odd)) == (odd, expected)
        made = 0 if expected != "CKR_OK" else 1 if kind == "secret" else 2
        for member, real in it.everywhere(b"odd", made):
            member.destroy(real)
        for member in it.members:
            for record in member.find({ck.CKA_APPLICATION: b"pyha"}):
                member.destroy(record)


@pytest.mark.parametrize("read_only", [False, True], ids=["read-write", "read-only"])
def test_a_cka_token_that_is_no_boolean_is_named_whatever_the_session_is(
    both: tuple[Scene, Application], read_only: bool
) -> None:
    app = both[0].app
    session = app.open(read_only)
    before = app.use(session)
    try:
        for odd in (b"\0\0", b"\1\0", b""):
            assert answer(app, "secret", {ck.CKA_TOKEN: odd}) == "CKR_ATTRIBUTE_VALUE_INVALID"
        assert answer(app, "secret", {ck.CKA_TOKEN: True}) == ("CKR_SESSION_READ_ONLY" if read_only else "CKR_OK")
    finally:
        app.use(before)
        app.close(session)
    both[0].everywhere(b"odd", 0 if read_only else 1)
    for handle in app.find({ck.CKA_LABEL: b"odd"}):
        app.destroy(handle)
