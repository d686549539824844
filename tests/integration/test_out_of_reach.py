"""What the group keeps on its tokens is out of an application's reach, whatever it calls (SEMANTICS.md section 5)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from pyha.ha.domain import DomainKey, domain_id, domain_label
from tests.application import Answered
from tests.chaos import behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, STAYS, Scene, ec_private, scene

Group = Callable[..., TestGroup]
LABEL = "reach"
OTHER = b"another group's "
"""The id of a group that has one of our members too."""

REAL = object()
"""Stands for a handle among arguments."""


@pytest.fixture(scope="module")
def it(group_of_module: Group) -> Iterator[Scene]:
    """Domain keys, an escrow record, tombstones, the domain key of another group, and one key of the application."""
    made = group_of_module(label=LABEL)
    made.only(0, 1)
    theirs = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_VALUE: bytes(32), **STAYS}
    named = {ck.CKA_LABEL: domain_label(OTHER), ck.CKA_ID: domain_id(OTHER, DomainKey.SEALED)}
    for index in range(3):
        with made.member(index) as member:
            member.create({**theirs, **named})
    with scene(made) as opened:
        key = {**STAYS, ck.CKA_VALUE_LEN: 32}
        opened.app.generate(ck.CKM_AES_KEY_GEN, {**key, ck.CKA_LABEL: b"mine"})
        opened.app.destroy(opened.app.generate(ck.CKM_AES_KEY_GEN, {**key, ck.CKA_LABEL: b"gone"}))
        yield opened


def _mine(it: Scene) -> int:
    (handle,) = it.app.find({ck.CKA_LABEL: b"mine"})
    return handle


def test_nothing_of_it_is_found(it: Scene) -> None:
    (mine,) = it.members[0].find({ck.CKA_LABEL: b"mine"})
    kept = [real for real in it.members[0].find({}) if real != mine]
    # Six domain keys of ours, one of theirs, an escrow record, and a tombstone for each object that one member missed.
    assert len(kept) == 10
    assert it.app.find({}) == it.app.find({ck.CKA_TOKEN: True}) == [_mine(it)]
    for real in kept:
        told = it.members[0].read(real, ck.CKA_CLASS, ck.CKA_LABEL, ck.CKA_ID, ck.CKA_APPLICATION)
        for attribute, value in told.items():
            if value and attribute != ck.CKA_CLASS:
                assert it.app.find({attribute: value}) == []


def test_no_call_takes_the_handle_that_a_member_has_for_it(it: Scene) -> None:
    """What passed for a handle of ours here would be one of these objects, were handles of members handed on."""
    app, mine = it.app, _mine(it)
    unwrapped = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_TOKEN: False}
    derived = {**unwrapped, ck.CKA_VALUE_LEN: 16}
    calls: list[tuple[Callable[..., Any], list[Any]]] = [
        (app.read, [REAL, ck.CKA_LABEL]),
        (app.set, [REAL, {ck.CKA_DECRYPT: True}]),
        (app.copy, [REAL, {ck.CKA_DECRYPT: True}]),
        (app.destroy, [REAL]),
        (app.wrap, [ck.CKM_AES_KEY_WRAP, REAL, mine]),
        (app.wrap, [ck.CKM_AES_KEY_WRAP, mine, REAL]),
        (app.unwrap, [ck.CKM_AES_KEY_WRAP, REAL, bytes(24), unwrapped]),
        (app.decrypt, [ck.CKM_AES_ECB, REAL, bytes(16)]),
        (app.encrypt, [ck.CKM_AES_ECB, REAL, bytes(16)]),
        (app.sign, [ck.CKM_RSA_PKCS, REAL, bytes(16)]),
        (app.derive, [(ck.CKM_AES_ECB_ENCRYPT_DATA, [("pointer", bytes(16))]), REAL, derived]),
    ]
    for real in it.members[0].find({}):
        for function, arguments in calls if real != mine else ():
            with pytest.raises(Answered, match="HANDLE_INVALID"):
                function(*(real if each is REAL else each for each in arguments))


IMPOSTORS: list[dict[int, Any]] = [
    {ck.CKA_LABEL: domain_label(OTHER)},
    {ck.CKA_ID: domain_id(OTHER, DomainKey.OPEN)},
    {ck.CKA_APPLICATION: b"pyha"},
]


@pytest.mark.parametrize("impostor", IMPOSTORS, ids=["label", "id", "application"])
def test_nothing_that_passes_for_it_is_unwrapped_or_derived(it: Scene, impostor: dict[int, Any]) -> None:
    secret = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, **LEAVES}
    usage = {ck.CKA_WRAP: True, ck.CKA_UNWRAP: True, ck.CKA_DERIVE: True, ck.CKA_TOKEN: False, ck.CKA_VALUE_LEN: 32}
    key = it.app.generate(ck.CKM_AES_KEY_GEN, {**LEAVES, **usage})
    wrapped = it.app.wrap(ck.CKM_AES_KEY_WRAP, key, key)
    before = it.inventory()
    with pytest.raises(Answered, match="CKR_ATTRIBUTE_VALUE_INVALID"):
        it.app.unwrap(ck.CKM_AES_KEY_WRAP, key, wrapped, {**secret, **impostor})
    mechanism = (ck.CKM_AES_ECB_ENCRYPT_DATA, [("pointer", bytes(32))])
    with pytest.raises(Answered, match="CKR_ATTRIBUTE_VALUE_INVALID"):
        it.app.derive(mechanism, key, {**secret, ck.CKA_VALUE_LEN: 32, **impostor})
    assert it.inventory() == before
    it.app.destroy(key)


def test_an_object_that_cannot_be_read_is_left_out_and_named_once(group: Group, tmp_path: Path) -> None:
    made = group(label=LABEL)
    with scene(made) as it:
        for label in (b"whole", b"broken"):
            it.app.create({**ec_private()[1], **STAYS, ck.CKA_DERIVE: True, ck.CKA_LABEL: label})
    plans = behind_chaos(made, tmp_path)
    with scene(made) as it:
        assert len(it.app.find({})) == 2
    with scene(made) as it:
        # Handles of a module follow the order of finding: the same search gives the same ones.
        plans[0].set("C_GetAttributeValue nth=1 -> answer CKR_GENERAL_ERROR")
        plans[0].add("C_GetAttributeValue nth=2 -> answer CKR_GENERAL_ERROR")
        found = it.app.find({})
        assert len(found) == 1
        plans[0].set("C_GetAttributeValue nth=1 -> answer CKR_GENERAL_ERROR")
        plans[0].add("C_GetAttributeValue nth=2 -> answer CKR_GENERAL_ERROR")
        assert len(it.app.find({ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})) == 1
        assert made.logged().count("has objects that cannot be read") == 1
        plans[0].set()
        assert len(it.app.find({})) == 2


def test_a_search_that_ends_helpers_is_not_given_to_more_than_two(group: Group, tmp_path: Path) -> None:
    made = group(label=LABEL)
    plans = behind_chaos(made, tmp_path)
    with scene(made) as it:
        key = it.app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: b"it", ck.CKA_VALUE_LEN: 32})
        for plan in plans:
            plan.set("C_FindObjectsInit nth=1 -> crash")
        # Its record is looked for.
        with pytest.raises(Answered, match="CKR_DEVICE_ERROR"):
            it.app.destroy(key)
        assert [f"member {token.label} lost" in made.logged() for token in made.tokens] == [True, True, False]
        assert it.members[2].find({ck.CKA_LABEL: b"it"}) != []
