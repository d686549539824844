"""A token with other domain keys than the group's is no member, whichever it is and however well the other key is
made."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pyha.abi.native import module_path
from pyha.cli import chaos_plan, sealing
from pyha.cli.entering import SharedPin, candidate_of
from pyha.cryptoki import constants as ck
from pyha.ha.domain import AES_KEYS, DomainKey, domain_id
from pyha.ha.fingerprints import Fingerprint
from pyha.runtime.admission import domain_handles
from pyha.runtime.group import GroupRuntime
from pyha.runtime.member import MemberLost
from tests.application import Application, Template, application
from tests.chaos import Plan
from tests.domain_tools import Place, places, put_sealed, sealed_value
from tests.softhsm import MODULE

OTHER = bytes(range(100, 132))
KEY: Template = {
    ck.CKA_VALUE_LEN: 32,
    ck.CKA_TOKEN: True,
    ck.CKA_SENSITIVE: True,
    ck.CKA_EXTRACTABLE: False,
    ck.CKA_LABEL: b"made",
}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Place]]:
    yield from places(tmp_path_factory, "admitted", 3)


@pytest.fixture
def place(make: Callable[[Path], Place], tmp_path: Path) -> Place:
    made = make(tmp_path / "place")
    made.reconfigure()
    return made


def use(place: Place) -> AbstractContextManager[Application]:
    return application(module_path(), {"PYHA_CONF": str(place.conf)}, "admitted", "1234")


def holders(place: Place) -> list[int]:
    """The members on whose tokens the key of the test is."""
    found = []
    for index, token in enumerate(place.tokens):
        with application(MODULE, token.environment, token.label, token.pin) as app:
            if app.find({ck.CKA_LABEL: b"made"}):
                found.append(index)
    return found


@pytest.mark.parametrize("written_down", [True, False])
def test_the_first_member_is_out_where_it_is_the_one_with_another_key(place: Place, written_down: bool) -> None:
    put_sealed(place, 0, OTHER)
    if not written_down:
        place.reconfigure(domain={})
    with use(place) as app:
        app.generate(ck.CKM_AES_KEY_GEN, KEY)
    out = "member admitted-0 lost: not a member any more: its sealed domain key is another one"
    assert out in place.logged()
    assert place.logged().count(" lost: ") == 1
    assert holders(place) == [1, 2]


def test_all_other_members_may_be_wrong(place: Place) -> None:
    put_sealed(place, 1, OTHER)
    put_sealed(place, 2, OTHER)
    with use(place) as app:
        app.generate(ck.CKM_AES_KEY_GEN, KEY)
    assert holders(place) == [0]


@pytest.mark.parametrize("written_down", [True, False])
def test_a_key_without_check_value_is_proved(place: Place, written_down: bool) -> None:
    put_sealed(place, 1, sealed_value(place), untold=True)
    put_sealed(place, 2, OTHER, untold=True)
    if not written_down:
        place.reconfigure(domain={})
    with use(place) as app:
        app.generate(ck.CKM_AES_KEY_GEN, KEY)
    assert "member admitted-2 lost: not a member any more: its sealed domain key is another one" in place.logged()
    assert place.logged().count(" lost: ") == 1
    assert holders(place) == [0, 1]


def test_a_key_that_is_made_to_have_the_same_check_value_wraps_nothing(place: Place) -> None:
    # What 16 million tries would find: here the written check value is made to agree instead.
    put_sealed(place, 0, OTHER)
    check = sealing.check_value(bytearray(OTHER))
    for index in (1, 2):
        put_sealed(place, index, sealed_value(place), untold=True)
    expected = dict(place.group.domain)
    expected[DomainKey.SEALED] = replace(expected[DomainKey.SEALED], check=check)
    place.reconfigure(domain=expected)
    with use(place) as app:
        assert "admitted-0" not in place.logged(), "its check value is the one that is expected"
        app.generate(ck.CKM_AES_KEY_GEN, KEY)
    assert "member admitted-0 lost: not a member any more: its sealed domain key is another one" in place.logged()
    assert holders(place) == [1, 2]


def test_a_key_that_was_proved_wrong_is_not_taken_for_proved(place: Place) -> None:
    """Another thread of the application may ask on the same connection before the member is out."""
    put_sealed(place, 0, OTHER)
    expected = dict(place.group.domain)
    check = sealing.check_value(bytearray(OTHER))
    expected[DomainKey.SEALED] = replace(expected[DomainKey.SEALED], check=check)
    place.reconfigure(domain=expected)
    with SharedPin(f"file:{place.pin}", "") as shared, candidate_of(place.group, 0) as candidate:
        shared.enter(candidate, None)
        group = SimpleNamespace(user=ck.CKU_USER, settings=place.group, told_domain={})
        for _ in range(3):
            with pytest.raises(MemberLost, match="its sealed domain key is another one"):
                domain_handles(cast(GroupRuntime, group), candidate.connection, DomainKey.SEALED, candidate.deadline())
        assert candidate.connection.domain == {}


def test_login_costs_no_proof_where_check_values_are_told(place: Place, tmp_path: Path) -> None:
    plan = Plan(tmp_path / "plan")
    plan.set("C_WrapKey -> delay 0")
    first, *others = place.group.members
    module = replace(first.uri, module_path=chaos_plan.chaos_module())
    place.reconfigure(
        members=(replace(first, uri=module, environment={**first.environment, **plan.environment}), *others)
    )
    with use(place) as app:
        assert plan.fired() == []
        app.generate(ck.CKM_AES_KEY_GEN, KEY)
        once = plan.fired()
        assert len(once) >= len(AES_KEYS)
        app.generate(ck.CKM_AES_KEY_GEN, KEY)
        assert len(plan.fired()) < 2 * len(once), "the second key needs no proof"
    assert "lost" not in place.logged()


def test_the_public_exponent_is_looked_at(place: Place) -> None:
    # Under an exponent of 1 wrapping hides nothing.
    token = place.tokens[0]
    named = {ck.CKA_ID: domain_id(place.group.id, DomainKey.SEALED_RSA), ck.CKA_CLASS: ck.CKO_PUBLIC_KEY}
    with application(MODULE, token.environment, token.label, token.pin) as app:
        (before,) = app.find(named)
        kept = app.read(before, ck.CKA_MODULUS, ck.CKA_LABEL, ck.CKA_ID)
        app.destroy(before)
        weak = {ck.CKA_KEY_TYPE: ck.CKK_RSA, ck.CKA_PUBLIC_EXPONENT: b"\1", ck.CKA_TOKEN: True, ck.CKA_PRIVATE: True}
        app.create({**kept, ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, **weak})
    with use(place) as app:
        app.generate(ck.CKM_AES_KEY_GEN, KEY)
    assert "admitted-0 lost: not a member any more: its sealed-rsa domain key has another public exp" in place.logged()
    assert holders(place) == [1, 2]


def test_creation_writes_the_fingerprints_down(place: Place) -> None:
    with sealing.open_backup(str(place.backup), str(place.private)) as backup:
        assert dict(place.group.domain) == dict(backup.fingerprints)
    assert all(fingerprint != Fingerprint(b"") for fingerprint in place.group.domain.values())
    assert all(place.group.domain[key].proof for key in AES_KEYS)
