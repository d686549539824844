"""Members that refuse, disagree or die while an object is made: a refused creation leaves nothing, on no member."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.application import Answered, Application, application
from tests.faults import Fault, Faulty
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, P256, STAYS, Scene, ec_private, scene
from tests.softhsm import MODULE

Group = Callable[..., TestGroup]
BLOCK = bytes(16)
DIGEST = bytes(range(32))


def aes(app: Application, label: bytes = b"made") -> int:
    """A key that must not leave."""
    return app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: label, ck.CKA_VALUE_LEN: 32})


def pair(app: Application, label: bytes = b"made", signs: bool = True) -> int:
    """A private EC key that must not leave; both halves have the label."""
    public = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_LABEL: label}
    usage = {ck.CKA_SIGN: signs, ck.CKA_DERIVE: not signs}
    _, private = app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**STAYS, **usage, ck.CKA_LABEL: label})
    return private


def deriving(app: Application, label: bytes = b"made") -> int:
    """A private EC key that may not sign."""
    return pair(app, label, signs=False)


def decrypting(app: Application, label: bytes = b"made") -> int:
    """A private RSA key that cannot sign, so that only a session copy can be proved."""
    public = {ck.CKA_TOKEN: True, ck.CKA_MODULUS_BITS: 1024, ck.CKA_PUBLIC_EXPONENT: b"\1\0\1", ck.CKA_LABEL: label}
    private = {**STAYS, ck.CKA_SIGN: False, ck.CKA_DECRYPT: True, ck.CKA_LABEL: label}
    return app.pair(ck.CKM_RSA_PKCS_KEY_PAIR_GEN, public, private)[1]


def imported(app: Application, label: bytes = b"made") -> int:
    """A private EC key whose public part nobody knows."""
    return app.create({**ec_private()[1], **STAYS, ck.CKA_DERIVE: True, ck.CKA_LABEL: label})


def repeated(app: Application, label: bytes = b"made") -> int:
    """A key that is created with the same call everywhere."""
    template = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: bytes(range(32))}
    return app.create({**template, **LEAVES, ck.CKA_LABEL: label})


MAKERS = {
    "aes": aes,
    "pair": pair,
    "deriving": deriving,
    "decrypting": decrypting,
    "imported": imported,
    "repeated": repeated,
}
STEPS = {
    "aes": ("C_CreateObject", "C_UnwrapKey", "C_SetAttributeValue"),
    "pair": ("C_CreateObject", "C_UnwrapKey", "C_SignInit", "C_Sign", "C_Verify"),
    "deriving": ("C_CreateObject", "C_UnwrapKey", "C_DeriveKey"),
    "decrypting": ("C_CreateObject", "C_UnwrapKey", "C_Sign"),
    "imported": ("C_CreateObject", "C_UnwrapKey", "C_DeriveKey"),
    "repeated": ("C_CreateObject",),
}
CALLED = {
    **dict.fromkeys(("pair", "deriving", "decrypting"), "C_GenerateKeyPair"),
    **{"aes": "C_GenerateKey", "imported": "C_CreateObject", "repeated": "C_CreateObject"},
}
SECONDARY = [(maker, step) for maker, steps in STEPS.items() for step in steps]


@contextmanager
def faulty(group: TestGroup, directory: Path) -> Iterator[tuple[Scene, Faulty]]:
    """The scene with every member behind a module that obeys."""
    faults = Faulty(group, directory)
    with scene(group) as opened:
        yield opened, faults


@pytest.mark.parametrize(("maker", "step"), SECONDARY)
def test_a_member_that_refuses_a_step_refuses_it_all(group: Group, tmp_path: Path, maker: str, step: str) -> None:
    made = group()
    with faulty(made, tmp_path) as (it, faults):
        aes(it.app, b"first")  # for which every member's domain keys are proved, by an object made there
        before = it.inventory()
        # A wrong check value is refused by every member; only the second one is the proof.
        first = 1 if step == "C_SetAttributeValue" else 0
        for index, skip in ((2, first), (1, first)):
            faults.plan(index, step, Fault.ANSWER, ck.CKR_TEMPLATE_INCONSISTENT, skip)
            with pytest.raises(Answered, match=r"CKR_(TEMPLATE_INCONSISTENT|KEY_NOT_WRAPPABLE)"):
                MAKERS[maker](it.app)
            assert faults.waiting() == []
            assert it.inventory() == before
        assert " lost" not in made.logged()
        MAKERS[maker](it.app)
        assert [len(each) for each in it.inventory()] == [len(it.inventory()[0])] * 3


@pytest.mark.parametrize(("maker", "step"), SECONDARY)
def test_a_member_that_dies_is_out_and_the_rest_have_the_key(
    group: Group, tmp_path: Path, maker: str, step: str
) -> None:
    made, index = group(), 1
    with faulty(made, tmp_path) as (it, faults):
        faults.plan(index, step, Fault.CRASH)
        key = MAKERS[maker](it.app)
        assert faults.waiting() == []
        assert f"member {made.tokens[index].label} lost" in made.logged()
        assert f"failover: {CALLED[maker]} went on with the members that are left" in made.logged()
        assert it.app.read(key, ck.CKA_LABEL)[ck.CKA_LABEL] == b"made"
        whole = [members for at, members in enumerate(it.inventory()) if at != index]
        assert whole[0] == whole[1]
        assert b"made" in whole[0]


@pytest.mark.parametrize("step", ["C_GenerateKey", "C_GetAttributeValue", "C_WrapKey", "C_CreateObject", "C_UnwrapKey"])
def test_the_first_member_dies_and_the_next_makes_the_key(group: Group, tmp_path: Path, step: str) -> None:
    made = group()
    with faulty(made, tmp_path) as (it, faults):
        faults.plan(0, step, Fault.CRASH)
        key = aes(it.app)
        assert faults.waiting() == []
        assert f"member {made.tokens[0].label} lost" in made.logged()
        ciphers = set()
        for member in it.members[1:]:
            (real,) = member.find({ck.CKA_LABEL: b"made"})
            ciphers.add(member.encrypt(ck.CKM_AES_ECB, real, BLOCK))
        assert ciphers == {it.app.encrypt(ck.CKM_AES_ECB, key, BLOCK)}
        assert it.inventory()[1] == it.inventory()[2]


@pytest.mark.parametrize("maker", ["aes", "pair", "deriving", "decrypting", "imported"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_copy_that_is_another_key_is_not_believed(group: Group, tmp_path: Path, maker: str, index: int) -> None:
    made = group()
    with faulty(made, tmp_path) as (it, faults):
        MAKERS[maker](it.app, b"first")
        before = it.inventory()
        faults.plan(index, "C_UnwrapKey", Fault.SUBSTITUTE)
        with pytest.raises(Answered, match="CKR_KEY_NOT_WRAPPABLE"):
            MAKERS[maker](it.app)
        assert faults.waiting() == []
        assert "is not proved to be the same key" in made.logged()
        assert it.inventory() == before


@pytest.mark.parametrize("fault", [Fault.SESSIONS, Fault.LOGOUT])
@pytest.mark.parametrize(("maker", "step"), [each for each in SECONDARY if each[0] in ("aes", "decrypting")])
def test_a_lost_session_or_login_is_healed_on_the_way(
    group: Group, tmp_path: Path, maker: str, step: str, fault: Fault
) -> None:
    made = group(members=2)
    with faulty(made, tmp_path) as (it, faults):
        faults.plan(1, step, fault)
        MAKERS[maker](it.app)
        assert faults.waiting() == []
        first, second = it.inventory()
        assert b"made" in first
        if first != second:
            # What is made and then forgotten with its login cannot be found again: such a member is out.
            assert "it forgot its login while a key was made there; it needs a resync" in made.logged()


def test_destruction_and_changes_reach_a_member_that_forgot_its_sessions(group: Group, tmp_path: Path) -> None:
    made = group(members=2)
    with faulty(made, tmp_path) as (it, faults):
        key = aes(it.app)
        for fault in (Fault.SESSIONS, Fault.LOGOUT):
            faults.plan(1, "C_SetAttributeValue", fault)
            it.app.set(key, {ck.CKA_LABEL: fault.name.encode()})
            it.everywhere(fault.name.encode())
            assert it.records() == [1, 1]
        faults.plan(1, "C_DestroyObject", Fault.SESSIONS)
        it.app.destroy(key)
        assert it.inventory()[0] == it.inventory()[1]
        assert it.records() == [0, 0]
        assert " lost" not in made.logged()


def test_a_member_that_refuses_what_the_primary_changed_is_out(group: Group, tmp_path: Path) -> None:
    made = group()
    with faulty(made, tmp_path) as (it, faults):
        key = aes(it.app)
        faults.plan(2, "C_SetAttributeValue", Fault.ANSWER, ck.CKR_ACTION_PROHIBITED)
        it.app.set(key, {ck.CKA_LABEL: b"changed"})
        assert f"member {made.tokens[2].label} lost" in made.logged()
        assert it.app.read(key, ck.CKA_LABEL)[ck.CKA_LABEL] == b"changed"


def test_a_call_that_ends_one_helper_after_the_other_does_not_end_them_all(group: Group, tmp_path: Path) -> None:
    made = group()
    with faulty(made, tmp_path) as (it, faults):
        faults.everywhere("C_UnwrapKey", Fault.CRASH)
        with pytest.raises(Answered, match="CKR_DEVICE_ERROR"):
            aes(it.app)
        assert faults.waiting() == [2]
        assert len(it.app.generate_random(8)) == 8
        assert b"made" not in it.inventory()[2]


def test_nothing_real_is_left_open(group: Group) -> None:
    """With the modules inside the application their own count of sessions can be asked for."""
    made = group(isolation="none")
    environment = {**made.environment, **made.tokens[0].environment}
    with application(made.module, environment, made.label) as app:
        for maker in MAKERS.values():
            app.destroy(maker(app))
        before = app.sessions_of(MODULE)
        for maker in MAKERS.values():
            for _ in range(3):
                app.destroy(maker(app))
        with pytest.raises(Answered):
            app.create({ck.CKA_CLASS: ck.CKO_SECRET_KEY, **STAYS})
        with pytest.raises(Answered):
            app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_VALUE_LEN: 17})
        with pytest.raises(Answered):
            app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_VALUE_LEN: 16, ck.CKA_WRAP_WITH_TRUSTED: True})
        assert app.sessions_of(MODULE) == before
