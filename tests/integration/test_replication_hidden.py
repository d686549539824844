"""What is the group's own is out of the application's sight and reach; and the slot says the same whoever answers."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import ATTRIBUTES, is_attribute_array
from tests.application import Answered, number
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, OPEN, P256, STAYS, Scene, ec_private, scene

Group = Callable[..., TestGroup]
_CLASSES = (ck.CKO_DATA, ck.CKO_CERTIFICATE, ck.CKO_PUBLIC_KEY, ck.CKO_PRIVATE_KEY, ck.CKO_SECRET_KEY)


@pytest.fixture(scope="module")
def it(group_of_module: Group) -> Iterator[Scene]:
    with scene(group_of_module()) as opened:
        opened.app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: b"mine", ck.CKA_VALUE_LEN: 32})
        yield opened


def _own(it: Scene) -> list[dict[int, bytes | None]]:
    """Of the group's own objects on a member: class, label, id, application."""
    member = it.members[0]
    shown = (ck.CKA_CLASS, ck.CKA_LABEL, ck.CKA_ID, ck.CKA_APPLICATION)
    found = [member.read(real, *shown) for real in member.find({})]
    return [each for each in found if each[ck.CKA_LABEL] != b"mine"]


def test_no_search_finds_them(it: Scene) -> None:
    own = _own(it)
    # Two AES keys, two RSA pairs, one record.
    assert len(own) == 7
    assert len(it.app.find({})) == 1
    assert len(it.app.find({ck.CKA_TOKEN: True, ck.CKA_PRIVATE: True})) == 1
    assert [len(it.app.find({ck.CKA_CLASS: each})) for each in _CLASSES] == [0, 0, 0, 0, 1]
    for each in own:
        for attribute, value in each.items():
            if value and attribute != ck.CKA_CLASS:
                assert it.app.find({attribute: value}) == []
                assert it.app.find({ck.CKA_CLASS: number(each[ck.CKA_CLASS]), attribute: value}) == []
    assert it.app.find({ck.CKA_WRAP: True, ck.CKA_COPYABLE: False}) == []


def test_a_search_in_a_public_session_finds_none_of_them(it: Scene) -> None:
    with it.group.application(pin=None) as stranger:
        assert stranger.find({}) == []


def test_handles_of_members_mean_nothing(it: Scene) -> None:
    reals = it.members[0].find({})
    (mine,) = it.app.find({})
    for real in [each for each in reals if each != mine]:
        for call in (
            lambda real=real: it.app.read(real, ck.CKA_LABEL),
            lambda real=real: it.app.destroy(real),
            lambda real=real: it.app.copy(real, {ck.CKA_TOKEN: False}),
            lambda real=real: it.app.set(real, {ck.CKA_DECRYPT: True}),
        ):
            with pytest.raises(Answered, match="CKR_OBJECT_HANDLE_INVALID"):
                call()
        with pytest.raises(Answered, match="HANDLE_INVALID"):
            it.app.wrap(ck.CKM_AES_KEY_WRAP, real, mine)


def _impostors(it: Scene) -> list[dict[int, Any]]:
    labels = {each[ck.CKA_LABEL] for each in _own(it) if number(each[ck.CKA_CLASS]) != ck.CKO_DATA}
    ids = {each[ck.CKA_ID] for each in _own(it) if each[ck.CKA_ID]}
    return [
        {ck.CKA_APPLICATION: b"pyha"},
        *({ck.CKA_LABEL: label} for label in labels),
        *({ck.CKA_ID: each} for each in ids),
    ]


def test_nothing_that_passes_for_them_can_be_made(it: Scene) -> None:
    before = it.inventory()
    (mine,) = it.app.find({})
    value = {ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: bytes(32)}
    for impostor in _impostors(it):
        if ck.CKA_APPLICATION in impostor:
            template = {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_TOKEN: True, ck.CKA_VALUE: b"x", **impostor}
        else:
            template = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_TOKEN: True, **value, **impostor}
        for call in (
            lambda template=template: it.app.create(template),
            lambda impostor=impostor: it.app.copy(mine, impostor),
            lambda impostor=impostor: it.app.set(mine, impostor),
            lambda impostor=impostor: it.app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_VALUE_LEN: 16, **impostor}),
            lambda impostor=impostor: it.app.pair(
                ck.CKM_EC_KEY_PAIR_GEN, {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, **impostor}, STAYS
            ),
        ):
            with pytest.raises(Answered, match="CKR_ATTRIBUTE_VALUE_INVALID"):
                call()
    assert it.inventory() == before


def test_the_log_holds_no_secret(it: Scene) -> None:
    secret, pin = bytes(range(200, 233)), it.group.pin
    template = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET, **STAYS}
    it.app.destroy(it.app.create({**template, ck.CKA_VALUE: secret, ck.CKA_LABEL: b"to be logged"}))
    key, private = ec_private()
    with pytest.raises(Answered):
        it.app.create({**template, ck.CKA_VALUE: bytes(343)})
    with pytest.raises(Answered):
        it.app.create({**private, **STAYS, ck.CKA_EC_PARAMS: b"nonsense"})
    logged = it.group.logged()
    assert logged
    assert secret.hex() not in logged
    assert repr(secret) not in logged
    assert private[ck.CKA_VALUE].hex() not in logged
    assert not re.search(rf"\b{pin}\b", re.sub(r"pyha\[\d+\]|\d+-\d+-\d+T[\d:.]+Z", "", logged))
    assert key.key_size == 256


def test_the_slot_says_the_same_whichever_member_answers(group: Group) -> None:
    made = group()
    with made.application() as app:
        for label, kind in {b"stays": STAYS, b"leaves": LEAVES, b"open": OPEN}.items():
            app.generate(ck.CKM_AES_KEY_GEN, {**kind, ck.CKA_LABEL: label, ck.CKA_VALUE_LEN: 32})
            app.generate(ck.CKM_GENERIC_SECRET_KEY_GEN, {**kind, ck.CKA_LABEL: label, ck.CKA_VALUE_LEN: 33})
            app.pair(
                ck.CKM_EC_KEY_PAIR_GEN,
                {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_ID: label},
                {**kind, ck.CKA_ID: label},
            )
        _, private = ec_private()
        app.create({**private, **LEAVES, ck.CKA_LABEL: b"imported"})
        app.create({**private, **STAYS, ck.CKA_LABEL: b"imported and stays"})
        app.create({ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_TOKEN: True, ck.CKA_VALUE: b"data"})
        expected = _everything(app)
    for index in range(3):
        made.only(index)
        with made.application() as app:
            assert _everything(app) == expected


def _everything(app: Any) -> list[list[tuple[int, bytes | None]]]:
    """Every attribute of every object, but those of which SoftHSM shows addresses."""
    plain = [each for each in ATTRIBUTES if not is_attribute_array(each)]
    return sorted((sorted(app.read(handle, *plain).items()) for handle in app.find({})), key=repr)


def test_pinned_where_the_operator_wants_it(group: Group) -> None:
    made = group(unreplicable="pin")
    with scene(made) as it:
        if ck.CKM_EC_EDWARDS_KEY_PAIR_GEN not in it.app.mechanisms():
            pytest.skip("this SoftHSM has no Ed25519")
        public, private = it.app.pair(
            ck.CKM_EC_EDWARDS_KEY_PAIR_GEN,
            {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: bytes.fromhex("130c656477617264733235353139"), ck.CKA_ID: b"\1"},
            {**STAYS, ck.CKA_LABEL: b"ed", ck.CKA_ID: b"\1"},
        )
        assert [len(member.find({ck.CKA_LABEL: b"ed"})) for member in it.members] == [1, 0, 0]
        assert f"a key is on member {made.tokens[0].label} only" in made.logged()
        signature = it.app.sign(ck.CKM_EDDSA, private, b"message")
        assert it.app.verify(ck.CKM_EDDSA, public, b"message", signature)
        it.app.set(private, {ck.CKA_LABEL: b"ed again"})
        assert "lost" not in made.logged()
        it.app.destroy(private)
        it.app.destroy(public)
        assert it.members[0].find({ck.CKA_ID: b"\1"}) == []
