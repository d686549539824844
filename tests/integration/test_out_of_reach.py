"""What the group keeps on its tokens is out of an application's reach, whatever it calls (SEMANTICS.md section 5)."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.attributes import ATTRIBUTES, is_attribute_array
from pyha.cryptoki.functions import COUNT_2_40, FUNCTIONS
from pyha.cryptoki.kinds import Kind
from pyha.ha.domain import DomainKey, domain_id, domain_label
from tests.application import Answered
from tests.chaos import behind_chaos
from tests.client import Client, client
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, STAYS, Scene, ec_private, scene

Group = Callable[..., TestGroup]
LABEL = f"reach-{os.getpid()}"
OTHER = b"another group's "
"""The id of a group that has one of our members too."""

_PLAIN = [each for each in ATTRIBUTES if not is_attribute_array(each)]
_DERIVATION = (ck.CKM_AES_ECB_ENCRYPT_DATA, [("pointer", bytes(16))])
_INVALID = (
    *(ck.CKR_OBJECT_HANDLE_INVALID, ck.CKR_KEY_HANDLE_INVALID),
    *(ck.CKR_WRAPPING_KEY_HANDLE_INVALID, ck.CKR_UNWRAPPING_KEY_HANDLE_INVALID),
)


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


def test_no_template_finds_it(it: Scene) -> None:
    """Whatever a search asks for that the objects show, and a CKA_CLASS that no module should take."""
    searches: set[tuple[int, bytes]] = {(ck.CKA_CLASS, each) for each in (b"", bytes(4), b"\4", b"\4" + bytes(15))}
    for real in it.members[0].find({}):
        for attribute, value in it.members[0].read(real, *_PLAIN).items():
            searches.add((attribute, value or b""))
    assert len(searches) > 60
    with it.group.application(pin=None) as stranger:
        mine = _mine(it)
        for attribute, value in searches:
            assert set(it.app.find({attribute: value})) <= {mine}, hex(attribute)
            assert stranger.find({attribute: value}) == [], hex(attribute)


def digest_key(app: Client, session: int, key: int) -> int:
    assert app.start("Digest", session, ck.CKM_SHA256) == ck.CKR_OK
    rv = app.call("C_DigestKey", session, key)
    app.out("DigestFinal", session)
    return rv


def test_no_call_takes_a_handle_that_was_guessed(it: Scene) -> None:
    """What passed for a handle of ours here would be one of these objects, were handles of members handed on."""
    wrap, ecb = ck.CKM_AES_KEY_WRAP, ck.CKM_AES_ECB
    unwrapped = {ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_TOKEN: False}
    before = it.inventory()
    with client(it.group.module, it.group.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        (mine,) = app.find(session, {ck.CKA_LABEL: b"mine"})[1]
        calls: dict[str, Callable[[int], int]] = {
            "C_GetAttributeValue object": lambda guess: app.get(session, guess, ck.CKA_LABEL)[0],
            "C_GetObjectSize object": lambda guess: app.object_size(session, guess)[0],
            "C_SetAttributeValue object": lambda guess: app.set(session, guess, {ck.CKA_DECRYPT: True}),
            "C_CopyObject object": lambda guess: app.copy(session, guess, {ck.CKA_DECRYPT: True})[0],
            "C_DestroyObject object": lambda guess: app.destroy(session, guess),
            "C_WrapKey wrapping_key": lambda guess: app.wrap(session, wrap, guess, mine)[0],
            "C_WrapKey key": lambda guess: app.wrap(session, wrap, mine, guess)[0],
            "C_UnwrapKey unwrapping_key": lambda guess: app.unwrap(session, wrap, guess, bytes(24), unwrapped)[0],
            "C_DeriveKey base_key": lambda guess: app.derive(session, _DERIVATION, guess, unwrapped)[0],
            "C_DigestKey key": lambda guess: digest_key(app, session, guess),
            **{
                f"C_{name}Init key": lambda guess, name=name: app.start(name, session, ecb, guess)  # type: ignore[misc]
                for name in ("Encrypt", "Decrypt", "Sign", "SignRecover", "Verify", "VerifyRecover")
            },
        }
        taken = {
            f"{function.name} {argument.name}"
            for function in FUNCTIONS[:COUNT_2_40]
            for argument in function.arguments
            if argument.kind in (Kind.OBJECT, Kind.KEY, Kind.WRAPPING_KEY, Kind.UNWRAPPING_KEY)
        }
        assert calls.keys() == taken
        reals = {real for member in it.members for real in member.find({})}
        for guess in {0, *range(1, 24), *reals, 1 << 32, 1 << 63, (1 << 64) - 1} - {mine}:
            for name, call in calls.items():
                assert call(guess) in _INVALID, (name, guess)
    assert it.inventory() == before


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
        # The first of two is read with the other one, then by itself, and then it is asked whether it is there.
        plans[0].set(*(f"C_GetAttributeValue nth={nth} -> answer CKR_GENERAL_ERROR" for nth in (1, 3, 4)))
        found = it.app.find({})
        assert len(found) == 1
        plans[0].set(*(f"C_GetAttributeValue nth={nth} -> answer CKR_GENERAL_ERROR" for nth in (1, 2, 3)))
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
