"""A copy of a secret key that came when its maker had been killed and another one had taken its place: nothing on the
token says that the two are one key, and a resync finds out (SEMANTICS.md section 5)."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from pyha.ha.domain import domain_id
from pyha.ha.records import decode
from pyha.runtime import config
from tests.application import Application
from tests.chaos import behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, STAYS
from tests.integration.test_group_sync import Sync
from tests.integration.test_resync import contents, labels
from tests.integration.test_tombstones import found

Group = Callable[..., TestGroup]
LABEL = f"left-{os.getpid()}"
NAMED: dict[int, Any] = {ck.CKA_LABEL: b"it", ck.CKA_ID: b"\1"}
DIGEST, ENCRYPT = (
    "C_DigestKey -> answer CKR_KEY_INDIGESTIBLE",
    "C_EncryptInit -> answer CKR_KEY_FUNCTION_NOT_PERMITTED",
)


@pytest.fixture
def sync(group: Group, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sync:
    return Sync(group(label=LABEL), capsys, monkeypatch)


def come_late(made: TestGroup, member: Application) -> None:
    """What a call of the killed maker does there: the key once more, from its escrow record."""
    (real,) = member.find({ck.CKA_APPLICATION: b"pyha"})
    record = decode(member.read(real, ck.CKA_VALUE)[ck.CKA_VALUE] or b"")
    (settings,) = config.load(str(made.conf)).groups
    (key,) = member.find({ck.CKA_ID: domain_id(settings.id, record.domain)})
    member.unwrap(record.mechanism, key, record.blob, {each.type: each.value for each in record.template})


def ciphers(made: TestGroup) -> set[bytes]:
    """What the one key makes of a block on each member."""
    shown = set()
    for index in range(len(made.tokens)):
        with made.member(index) as plain:
            shown.add(plain.encrypt(ck.CKM_AES_ECB, found(plain, b"it"), bytes(16)))
    return shown


def test_it_goes_where_it_is_proved_to_be_the_same_key(sync: Sync, tmp_path: Path) -> None:
    made = sync.made
    with made.application() as app:
        app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, **NAMED, ck.CKA_VALUE_LEN: 32})
    before = contents(made)
    plan = behind_chaos(made, tmp_path)[1]
    with made.member(2) as plain:
        come_late(made, plain)
    plan.set(DIGEST, ENCRYPT)
    status, out, _ = sync()
    assert status == 1
    assert "cannot be told apart" in out
    assert [len(labels(each)) for each in contents(made)] == [1, 1, 2]
    # By what is encrypted with it, and by its digest, each where the module does not do the other.
    for refused in (DIGEST, ENCRYPT):
        plan.set(refused)
        status, out, _ = sync("--dry-run")
        assert status == 1
        assert f'delete secret key "it" id 01 on {made.tokens[2].label} (one of several equal ones)' in out
    assert sync()[0] == 0
    assert contents(made) == before
    assert len(ciphers(made)) == 1


def test_another_key_that_nobody_has_proved_stays(sync: Sync) -> None:
    made = sync.made
    with made.application() as app:
        app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, **NAMED, ck.CKA_VALUE_LEN: 32})
    with made.member(1) as plain:
        wrapping = plain.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_TOKEN: False, ck.CKA_WRAP: True, ck.CKA_VALUE_LEN: 32})
        extractable = {ck.CKA_TOKEN: False, ck.CKA_EXTRACTABLE: True, ck.CKA_VALUE_LEN: 32}
        blob = plain.wrap(ck.CKM_AES_KEY_WRAP, wrapping, plain.generate(ck.CKM_AES_KEY_GEN, extractable))
        shown = plain.read(found(plain, b"it"), *(usage for usage in (ck.CKA_ENCRYPT, ck.CKA_DECRYPT, ck.CKA_SIGN)))
        template = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, **shown, **STAYS, **NAMED}
        plain.unwrap(ck.CKM_AES_KEY_WRAP, wrapping, blob, template)
    status, out, _ = sync()
    assert status == 1
    assert "cannot be told apart" in out
    assert [len(labels(each)) for each in contents(made)] == [1, 2, 1]


def test_one_that_an_application_has_unwrapped_stays(sync: Sync) -> None:
    """The same key once more, while the other members are away: it was told CKR_OK."""
    made = sync.made
    usage = dict.fromkeys((ck.CKA_ENCRYPT, ck.CKA_DECRYPT, ck.CKA_SIGN, ck.CKA_VERIFY, ck.CKA_WRAP), True)
    key = {
        ck.CKA_CLASS: ck.CKO_SECRET_KEY,
        ck.CKA_KEY_TYPE: ck.CKK_AES,
        **LEAVES,
        **NAMED,
        **usage,
        ck.CKA_UNWRAP: True,
    }
    value = {ck.CKA_VALUE: bytes(range(32))}
    with made.application() as app:
        app.create({**key, **value})
    made.only(0)
    with made.application() as app:
        wrapping = app.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_WRAP: True, ck.CKA_UNWRAP: True, ck.CKA_VALUE_LEN: 32})
        blob = app.wrap(ck.CKM_AES_KEY_WRAP, wrapping, app.create({**key, **value, ck.CKA_TOKEN: False}))
        app.unwrap(ck.CKM_AES_KEY_WRAP, wrapping, blob, key)
    made.only(0, 1, 2)
    assert sync()[0] == 0
    assert [len(labels(each)) for each in contents(made)] == [2, 2, 2]
    assert sync("--dry-run")[0] == 0
