"""EC keys are told by their public twins: a deleted one does not come back, and of those that look alike the right one
goes (SEMANTICS.md section 5)."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pyha.cli.main import main
from pyha.cryptoki import constants as ck
from tests.application import Application
from tests.chaos import behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import P256, STAYS, point_of
from tests.integration.test_resync import CERTIFICATE, contents, labels

Group = Callable[..., TestGroup]
LABEL = f"twins-{os.getpid()}"
NAMED: dict[int, Any] = {ck.CKA_LABEL: b"it", ck.CKA_ID: b"\1"}
PRIVATE: dict[int, Any] = {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, **NAMED}
PUBLIC: dict[int, Any] = {ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, **NAMED}
DIGEST = bytes(range(32))
SECRET: dict[int, Any] = {
    ck.CKA_CLASS: ck.CKO_SECRET_KEY,
    ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET,
    ck.CKA_TOKEN: False,
    ck.CKA_SENSITIVE: False,
    ck.CKA_EXTRACTABLE: True,
    ck.CKA_VALUE_LEN: 32,
}


@pytest.fixture
def made(group: Group, monkeypatch: pytest.MonkeyPatch) -> TestGroup:
    made = group(members=3, label=LABEL)
    monkeypatch.setenv("TEST_PIN", made.pin)
    return made


def pair(app: Application, derives: bool = False) -> tuple[int, int]:
    public = {**NAMED, ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_VERIFY: True}
    return app.pair(
        ck.CKM_EC_KEY_PAIR_GEN, public, {**STAYS, **NAMED, ck.CKA_SIGN: not derives, ck.CKA_DERIVE: derives}
    )


def synchronise(made: TestGroup, status: int = 0) -> None:
    made.only(0, 1, 2)
    assert main(["group", "sync", LABEL, "--pin-source", "env:TEST_PIN", "--config", str(made.conf)]) == status


def belongs(app: Application, private: int, public: int) -> bool:
    if app.read(private, ck.CKA_SIGN)[ck.CKA_SIGN] == b"\1":
        return app.verify(ck.CKM_ECDSA, public, DIGEST, app.sign(ck.CKM_ECDSA, private, DIGEST))
    other, point = ec.generate_private_key(ec.SECP256R1()), app.read(public, ck.CKA_EC_POINT)[ck.CKA_EC_POINT] or b""
    theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point[2:])
    mechanism = (ck.CKM_ECDH1_DERIVE, [ck.CKD_NULL, b"", point_of(other.public_key())[2:]])
    secret = app.derive(mechanism, private, SECRET)
    return app.read(secret, ck.CKA_VALUE)[ck.CKA_VALUE] == other.exchange(ec.ECDH(), theirs)


@pytest.mark.parametrize("first", [PRIVATE, PUBLIC], ids=["private", "public"])
@pytest.mark.parametrize("anew", [False, True])
def test_a_deleted_pair_does_not_come_back_nor_its_record(made: TestGroup, first: dict[int, Any], anew: bool) -> None:
    """Whichever half goes first, and whether or not the same application deletes the other."""
    with made.application() as app:
        pair(app)
    made.only(0, 1)
    with made.application() as app, made.application() as other:
        second = PUBLIC if first is PRIVATE else PRIVATE
        last = app.find(second)
        app.destroy(*app.find(first))
        if anew:
            other.destroy(*other.find(second))
        else:
            app.destroy(*last)
    synchronise(made)
    assert contents(made) == [[], [], []]


def test_the_public_key_of_another_with_its_id_is_not_its_twin(made: TestGroup) -> None:
    """When its own is gone already, and the member that was away has both."""
    with made.application() as app:
        for label in (b"gone", b"stays"):
            named = {**NAMED, ck.CKA_LABEL: label}
            public = {**named, ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_VERIFY: True}
            app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**STAYS, **named, ck.CKA_SIGN: True})
    made.only(0, 1)
    for object_class in (ck.CKO_PUBLIC_KEY, ck.CKO_PRIVATE_KEY):
        with made.application() as app:
            app.destroy(*app.find({ck.CKA_CLASS: object_class, ck.CKA_LABEL: b"gone"}))
    synchronise(made)
    assert [labels(each) for each in contents(made)] == [[b"stays", b"stays"]] * 3


@pytest.mark.parametrize("derive", [False, True])
def test_of_two_that_look_alike_the_one_that_was_deleted_is_gone(made: TestGroup, derive: bool) -> None:
    with made.application() as app:
        pair(app, derive)
        pair(app, derive)
    made.only(0, 1)
    with made.application() as app:
        private, publics = app.find(PRIVATE)[0], app.find(PUBLIC)
        (public,) = [each for each in publics if belongs(app, private, each)]
        app.destroy(private)
        app.destroy(public)
    synchronise(made)
    first, second, third = contents(made)
    assert first == second == third
    assert len(labels(third)) == 2
    for index in range(3):
        made.only(index)
        with made.application() as app:
            ((private,), (public,)) = app.find(PRIVATE), app.find(PUBLIC)
            assert belongs(app, private, public)


def test_two_that_look_alike_come_whole_onto_a_member_that_has_none(made: TestGroup) -> None:
    made.only(0, 1)
    with made.application() as app:
        pair(app)
        pair(app)
        app.create({**CERTIFICATE, **NAMED})
        app.create({**CERTIFICATE, **NAMED, ck.CKA_VALUE: b"\x30\1\1"})
    synchronise(made)
    first, second, third = contents(made)
    assert first == second == third
    made.only(2)
    with made.application() as app:
        privates, publics = app.find(PRIVATE), app.find(PUBLIC)
        assert [sum(belongs(app, private, public) for public in publics) for private in privates] == [1, 1]


@pytest.mark.parametrize(("deleted", "derives"), [(False, False), (True, True)])
def test_a_pair_that_is_made_again_beside_one_that_a_member_does_not_show(
    made: TestGroup, tmp_path: Path, deleted: bool, derives: bool
) -> None:
    """As SoftHSM may overlook what another process has made. Of the old one and the new one none is lost, nor comes
    back, nor is taken for the other."""
    plan = behind_chaos(made, tmp_path)[1]
    with made.application() as app:
        pair(app, derives)
    with made.application() as app:
        plan.set("C_FindObjects -> length 0")
        for each in app.find(NAMED) if deleted else ():
            app.destroy(each)
        public, private = pair(app, derives)
        assert belongs(app, private, public)
        plan.set()
        assert belongs(app, private, public)
    synchronise(made)
    first, second, third = contents(made)
    assert first == second == third
    pairs = 1 if deleted else 2
    assert len(labels(first)) == 2 * pairs
    for index in range(3):
        with made.member(index) as plain:
            privates, publics = plain.find(PRIVATE), plain.find(PUBLIC)
            assert [sum(belongs(plain, each, public) for public in publics) for each in privates] == [1] * pairs
