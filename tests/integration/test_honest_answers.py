"""An answer of CKR_OK is about every member, and an application's bad luck with one call stays with that call."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyha.cryptoki import constants as ck
from tests.client import Client, client, ec_pair
from tests.faults import Fault, Faulty
from tests.integration.conftest import TestGroup
from tests.softhsm import SoftHSMToken

Group = Callable[..., TestGroup]
OK = ck.CKR_OK


def all_on(token: SoftHSMToken, template: dict[int, Any], attribute: int) -> list[bytes]:
    """This attribute of all objects that match, on a member's plain token."""
    with client(token.module, token.environment) as plain:
        session = plain.logged_in(plain.slot_of(token.label), token.pin)
        return sorted(plain.get(session, each, attribute)[1] for each in plain.find(session, template)[1])


def records_on(token: SoftHSMToken) -> list[dict[str, Any]]:
    content = all_on(token, {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_APPLICATION: b"pyha"}, ck.CKA_VALUE)
    return [json.loads(each[64:]) for each in content]


def faulty_client(group: Group, directory: Path, label: str) -> tuple[TestGroup, Faulty]:
    made = group(label=label)
    return made, Faulty(made, directory)


def test_a_member_that_does_not_log_out_is_out(group: Group, tmp_path: Path) -> None:
    """Its helper ends, and the login with it: the application was told that nobody is logged in any more."""
    made, faulty = faulty_client(group, tmp_path, "logout")
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of("logout"))
        faulty.plan(0, "C_Logout", Fault.ANSWER, ck.CKR_FUNCTION_FAILED)
        assert app.logout(session) == OK
        assert "member logout-0 lost: C_Logout answered CKR_FUNCTION_FAILED" in made.logged()
        private = {ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_PRIVATE: True, ck.CKA_TOKEN: True, ck.CKA_VALUE: b"x"}
        assert app.create(session, private)[0] == ck.CKR_USER_NOT_LOGGED_IN


@pytest.mark.parametrize("name", ["C_Login", "C_SeedRandom"])
def test_a_call_to_every_member_ends_two_helpers_at_most(group: Group, tmp_path: Path, name: str) -> None:
    made, faulty = faulty_client(group, tmp_path, "poison")
    with client(made.module, made.environment) as app:
        _, session = app.open(app.slot_of("poison"))
        faulty.everywhere(name, Fault.CRASH)
        rv = app.login(session, "1234") if name == "C_Login" else app.feed("SeedRandom", session, bytes(16))
        assert rv == ck.CKR_DEVICE_ERROR
        assert faulty.waiting() == [2]
        assert app.random(session)[0] == OK


def same_name(app: Client, session: int) -> tuple[int, int]:
    """Two EC pairs that share id and label: which private key belongs to which public one, no attribute tells."""
    return ec_pair(app, session, b"same")[1], ec_pair(app, session, b"same")[1]


def test_what_cannot_be_told_apart_elsewhere_is_changed_nowhere(group: Group) -> None:
    made = group(label="twins")
    private = {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, ck.CKA_ID: b"same"}
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of("twins"))
        same_name(app, session)
        # Without their public keys nothing tells which is which.
        for public in app.find(session, {**private, ck.CKA_CLASS: ck.CKO_PUBLIC_KEY})[1]:
            assert app.destroy(session, public) == OK
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of("twins"))
        first, second = app.find(session, private)[1]
        assert app.destroy(session, first) == ck.CKR_DEVICE_ERROR
        assert app.set(session, second, {ck.CKA_LABEL: b"another"}) == ck.CKR_DEVICE_ERROR
    assert [all_on(token, private, ck.CKA_LABEL) for token in made.tokens] == [[b"same", b"same"]] * 3


def test_twins_are_destroyed_by_who_made_them(group: Group) -> None:
    made = group(label="twins")
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of("twins"))
        first, _ = same_name(app, session)
        assert app.destroy(session, first) == OK
    private = {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, ck.CKA_ID: b"same"}
    assert [len(all_on(token, private, ck.CKA_LABEL)) for token in made.tokens] == [1] * 3


def test_a_record_is_sealed_when_its_key_becomes_unextractable(group: Group) -> None:
    """A key of odd length has a record while it may still leave, under a domain key that would give it back so."""
    made = group(label="sealed")
    secret = {ck.CKA_TOKEN: True, ck.CKA_VALUE_LEN: 20, ck.CKA_LABEL: b"odd", ck.CKA_ID: b"odd"}
    flags = {ck.CKA_EXTRACTABLE: True, ck.CKA_SENSITIVE: True, ck.CKA_SIGN: True}
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of("sealed"))
        rv, key = app.generate(session, ck.CKM_GENERIC_SECRET_KEY_GEN, {**secret, **flags})
        assert rv == OK
        assert app.set(session, key, {ck.CKA_EXTRACTABLE: False}) == OK
    for token in made.tokens:
        assert [record["domain"] for record in records_on(token)] == ["sealed-rsa"]


def test_a_member_whose_keys_could_not_be_looked_for_is_not_cast_out(group: Group, tmp_path: Path) -> None:
    """Only what was seen to lack the domain keys stays out until the operator looks at it."""
    made, faulty = faulty_client(group, tmp_path, "search")
    made.reconfigure(lambda settings: replace(settings, recovery=replace(settings.recovery, interval=0.1)))
    with client(made.module, made.environment) as app:
        faulty.plan(1, "C_FindObjectsInit", Fault.ANSWER, ck.CKR_GENERAL_ERROR)
        app.logged_in(app.slot_of("search"))
        assert "member search-1 lost: its domain keys could not be looked for" in made.logged()
        assert "not a member any more" not in made.logged()


def test_a_search_beside_a_slow_key_generation_costs_no_member(group: Group, tmp_path: Path) -> None:
    made, faulty = faulty_client(group, tmp_path, "slow")
    made.reconfigure(lambda settings: replace(settings, deadline=0.5, slow_deadline=6.0))
    with client(made.module, made.environment) as app:
        slot = app.slot_of("slow")
        session, other = app.logged_in(slot), app.logged_in(slot)
        faulty.plan(0, "C_GenerateKeyPair", Fault.HANG)
        maker = threading.Thread(target=ec_pair, args=(app, session))
        maker.start()
        while 0 in faulty.waiting():
            pass
        assert app.find(other, {ck.CKA_LABEL: b"nothing"}) == (OK, [])
        assert " lost: " not in made.logged()
        maker.join()
        assert "member slow-0 lost: C_GenerateKeyPair did not return" in made.logged()
