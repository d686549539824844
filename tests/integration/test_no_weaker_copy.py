"""A copy has every protection that was asked for and that the plan names, or there is none (SEMANTICS.md section 5)."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyha.cli.main import main
from pyha.cryptoki import constants as ck
from tests.application import Answered, Application, Template
from tests.chaos import behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, OPEN, P256, STAYS, scene

Group = Callable[..., TestGroup]
LABEL = f"strict-{os.getpid()}"
ONLY_ECB = ck.CKM_AES_ECB.to_bytes(8, "little")


def make(app: Application, way: str, protection: Template) -> None:
    """A key that may not be copied, nor used for derivation."""
    named: dict[int, Any] = {**protection, ck.CKA_LABEL: b"it", ck.CKA_COPYABLE: False, ck.CKA_DERIVE: False}
    if way == "generated":
        app.generate(ck.CKM_AES_KEY_GEN, {**named, ck.CKA_VALUE_LEN: 16})
    elif way == "pair":
        public = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_LABEL: b"it"}
        app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, named)
    else:
        value = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: bytes(16)}
        app.create({**value, **named})


def test_what_a_member_makes_weaker_is_taken_back(group: Group, tmp_path: Path) -> None:
    """It shows otherwise than it should the last attribute that it is asked for."""
    made = group(members=2, label=LABEL)
    plan = behind_chaos(made, tmp_path)[1]
    with scene(made) as it:
        before = it.inventory()
        for way, protection in (("generated", STAYS), ("generated", LEAVES), ("pair", STAYS), ("imported", STAYS)):
            plan.set("C_GetAttributeValue -> corrupt")
            with pytest.raises(Answered, match=r"CKR_(KEY_NOT_WRAPPABLE|DEVICE_ERROR)"):
                make(it.app, way, protection)
            plan.set()
            assert it.inventory() == before
    logged = made.logged()
    assert "lacks CKA_COPYABLE" in logged
    assert "makes it without CKA_" in logged


def test_a_member_gets_the_stronger_of_what_the_others_have(
    group: Group, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not what the one has that it is copied from."""
    made = group(members=3, label=LABEL)
    monkeypatch.setenv("TEST_PIN", made.pin)
    value: dict[int, Any] = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: bytes(16)}
    value |= {**OPEN, ck.CKA_LABEL: b"it"}
    stronger = {ck.CKA_ALLOWED_MECHANISMS: ONLY_ECB, ck.CKA_UNWRAP_TEMPLATE: {ck.CKA_EXTRACTABLE: False}}
    public: dict[int, Any] = {ck.CKA_CLASS: ck.CKO_CERTIFICATE, ck.CKA_CERTIFICATE_TYPE: 0, ck.CKA_TOKEN: True}
    public |= {ck.CKA_LABEL: b"c", ck.CKA_SUBJECT: b"\x30\0", ck.CKA_VALUE: b"\x30\0", ck.CKA_PRIVATE: False}
    with made.member(0) as first, made.member(1) as second:
        first.create(value)
        second.create({**value, **stronger, ck.CKA_COPYABLE: False})
        first.create(public)
        second.create({**public, ck.CKA_COPYABLE: False})
    words = ["group", "sync", LABEL, "--pin-source", "env:TEST_PIN", "--config", str(made.conf)]
    assert main(words) == 1
    told = capsys.readouterr().out
    assert f'conflict secret key "it" on {LABEL}-0: CKA_UNWRAP_TEMPLATE differs and cannot be set' in told
    with made.member(2) as third:
        (key,) = third.find({ck.CKA_LABEL: b"it"})
        assert third.value(key, ck.CKA_ALLOWED_MECHANISMS) == ONLY_ECB
        assert third.array(key, ck.CKA_UNWRAP_TEMPLATE) == {ck.CKA_EXTRACTABLE: b"\0"}
        assert third.value(key, ck.CKA_COPYABLE) == b"\0"
        (certificate,) = third.find({ck.CKA_LABEL: b"c"})
        assert third.value(certificate, ck.CKA_COPYABLE) == b"\0"
