"""Multi-part operations whose output goes where their input was (PKCS #11 2.40, sections 5.8 and 5.9), on their way to
another member."""

import os
import signal
from collections.abc import Callable

import pytest

from pyha.cryptoki import constants as ck
from tests.client import aes_key, client, helpers
from tests.integration.conftest import TestGroup

OK = ck.CKR_OK
LABEL = f"in-place-{os.getpid()}"
PLAIN = bytes(range(64))
IV = bytes(16)


@pytest.mark.parametrize("name", ["Encrypt", "Decrypt"])
@pytest.mark.parametrize("mechanism", [ck.CKM_AES_CBC, ck.CKM_AES_CBC_PAD])
def test_an_operation_in_place_moves(group: Callable[..., TestGroup], name: str, mechanism: int) -> None:
    """With CBC_PAD a part that is decrypted comes out with the next one: what is there before says nothing of it."""
    made = group(members=1, standby=1, label=LABEL)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        key = aes_key(app, session)
        assert app.start("Encrypt", session, (mechanism, IV), key) == OK
        rv, _, encrypted = app.out("Encrypt", session, PLAIN)
        assert rv == OK
        given, wanted = (PLAIN, encrypted) if name == "Encrypt" else (encrypted, PLAIN)
        assert app.start(name, session, (mechanism, IV), key) == OK
        answers = [app.in_place(f"{name}Update", session, given[at : at + 16]) for at in (0, 16)]
        os.kill(helpers(LABEL)[made.tokens[0].label], signal.SIGKILL)
        answers += [app.in_place(f"{name}Update", session, given[at : at + 16]) for at in range(32, len(given), 16)]
        rv, _, last = app.out(f"{name}Final", session)
        answers.append((rv, last))
        assert [rv for rv, _ in answers] == [OK] * len(answers)
        assert b"".join(part for _, part in answers) == wanted
