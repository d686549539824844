"""SoftHSM first writes the file of a token object without what it was given, with CKA_TOKEN false among the attributes,
and what is killed in between leaves it so: an object that no session has, and that is none of the token's."""

import struct
from collections.abc import Callable

import pytest

from pyha.cli.main import main
from pyha.cryptoki import constants as ck
from tests.client import aes_key, client
from tests.integration.conftest import TestGroup
from tests.softhsm import file_of

_SAID: dict[int, bool | int | bytes] = {
    ck.CKA_CLASS: ck.CKO_SECRET_KEY,
    ck.CKA_TOKEN: False,
    ck.CKA_PRIVATE: True,
    ck.CKA_LABEL: b"",
    ck.CKA_KEY_TYPE: ck.CKK_AES,
    ck.CKA_ID: b"",
}


def _stored(kind: int, value: bool | int | bytes) -> bytes:
    """As SoftHSM 2.6 stores an attribute in a file."""
    if isinstance(value, bool):
        return struct.pack(">QQB", kind, 1, value)
    if isinstance(value, int):
        return struct.pack(">QQQ", kind, 2, value)
    return struct.pack(">QQQ", kind, 3, len(value)) + value


def test_it_is_no_object_of_the_group_and_stays_where_it_is(
    group: Callable[..., TestGroup], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process may be just about to write the rest."""
    made = group(members=2, label="torn")
    token = made.tokens[0]
    left = file_of(token.conf.parent / "tokens", token.serial).with_name("5ca1ab1e.object")
    left.write_bytes(struct.pack(">Q", 1) + b"".join(_stored(*each) for each in _SAID.items()))
    with made.member(0) as plain:
        assert set(plain.find({})) - set(plain.find({ck.CKA_TOKEN: True}))
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(made.label))
        key = aes_key(app, session, b"whole")
        assert app.find(session, {}) == (ck.CKR_OK, [key])
        assert app.find(session, {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_LABEL: b""}) == (ck.CKR_OK, [])
    capsys.readouterr()
    monkeypatch.setenv("TEST_PIN", made.pin)
    words = ["group", "sync", made.label, "--dry-run", "--pin-source", "env:TEST_PIN", "--config", str(made.conf)]
    assert (main(words), capsys.readouterr().out) == (0, "Nothing differs.\n")
    assert left.exists()
