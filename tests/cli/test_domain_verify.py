"""`pyha domain show` and `verify` on real tokens: who agrees, which doors are shut; looking changes nothing."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from pyha.ha.domain import DomainKey, domain_id
from pyha.runtime.doors import Way
from tests.application import application
from tests.domain_tools import Domain, Place, places, put_sealed, sealed_value
from tests.softhsm import MODULE

OTHER = bytes(range(100, 132))
_FLAGS = (ck.CKA_DECRYPT, ck.CKA_EXTRACTABLE, ck.CKA_SENSITIVE, ck.CKA_MODIFIABLE, ck.CKA_COPYABLE)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Place]]:
    yield from places(tmp_path_factory, "verified", 2)


@pytest.fixture
def domain(make: Callable[[Path], Place], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Domain:
    return Domain(make(tmp_path / "place"), capsys)


def state(place: Place, index: int) -> dict[int, dict[int, bytes | None]]:
    """What a token's own application sees of its objects."""
    token = place.tokens[index]
    with application(MODULE, token.environment, token.label, token.pin) as app:
        found = {each: app.read(each, ck.CKA_CLASS, ck.CKA_ID) for each in app.find({})}
        keys = app.find({ck.CKA_CLASS: ck.CKO_SECRET_KEY})
        return {each: {**shown, **(app.read(each, *_FLAGS) if each in keys else {})} for each, shown in found.items()}


def test_members_that_agree_are_shown_with_their_fingerprints(domain: Domain) -> None:
    status, out, err = domain("show", "verified")
    assert (status, err) == (0, "")
    fingerprints = domain.place.group.domain
    lines = [line for line in out.splitlines() if f"sealed {fingerprints[DomainKey.SEALED].check.hex()}" in line]
    assert [line.split()[0] for line in lines] == ["configured", "verified-0", "verified-1"]
    assert out.endswith("The members' domain keys agree.\n")
    status, out, _ = domain("show", "verified", "--json")
    report = json.loads(out)
    assert [member["agrees"] for member in report["members"]] == [True, True]
    assert all(member["domain-keys"] == report["configured"] for member in report["members"])
    assert report["configured"]["sealed"]["proof"] == fingerprints[DomainKey.SEALED].proof.hex()


def test_a_member_with_another_key_is_named(domain: Domain) -> None:
    put_sealed(domain.place, 0, OTHER)
    status, out, _ = domain("show", "verified")
    assert status == 1
    assert "verified-0: its sealed domain key is another one\n" in out
    assert "agree." not in out
    # Its check value is made to agree: the proof does not.
    expected = dict(domain.place.group.domain)
    put_sealed(domain.place, 1, OTHER)
    check = json.loads(domain("show", "verified", "--json")[1])["members"][0]["domain-keys"]["sealed"]["check"]
    expected[DomainKey.SEALED] = replace(expected[DomainKey.SEALED], check=bytes.fromhex(check))
    domain.place.reconfigure(domain=expected)
    assert domain("show", "verified")[0] == 1


def test_without_written_fingerprints_the_members_are_compared(domain: Domain) -> None:
    domain.place.reconfigure(domain={})
    status, out, _ = domain("show", "verified")
    assert status == 0
    assert "The configuration names no fingerprints" in out
    put_sealed(domain.place, 1, OTHER)
    status, out, _ = domain("show", "verified")
    assert status == 1
    assert "verified-1: its sealed domain key is another one" in out


def test_a_wrong_pin_is_tried_on_one_member_only(domain: Domain, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("9999")
    wrong.chmod(0o600)
    for action in ("show", "verify"):
        status, out, _ = domain(action, "verified", pin=wrong)
        assert status == 1
        assert "verified-1: the PIN was not tried, because verified-0 did not take it" in out
    # The first one's try counts; the other still takes the right PIN.
    status, out, _ = domain("show", "verified")
    assert status == 1
    assert "few tries" in out
    first, second = domain.place.group.members
    domain.place.reconfigure(members=(replace(first, enabled=False), second))
    assert domain("show", "verified")[0] == 0


def test_all_doors_are_shut_on_softhsm_and_trying_them_leaves_nothing(domain: Domain) -> None:
    before = state(domain.place, 1)
    status, out, err = domain("verify", "verified")
    assert (status, err) == (0, "")
    assert state(domain.place, 1) == before
    lines = out.splitlines()
    assert lines.count("verified-0") == lines.count("verified-1") == 1
    assert "  shut       can be given CKA_DECRYPT: sealed, open, sealed-rsa, open-rsa" in lines
    assert "  shut       unwraps keys as extractable: sealed, sealed-rsa" in lines
    assert len(lines) == 2 * (1 + len(Way))
    assert "open  " not in out


def test_each_open_door_is_said_and_closed_again(domain: Domain) -> None:
    # The right key, made without the protections that shut the doors.
    loose = {ck.CKA_MODIFIABLE: True, ck.CKA_COPYABLE: True, ck.CKA_UNWRAP_TEMPLATE: None}
    put_sealed(domain.place, 1, sealed_value(domain.place), changes=loose)
    before = state(domain.place, 1)
    assert domain("show", "verified")[0] == 0, "it is the right key"
    status, out, _ = domain("verify", "verified", "--json")
    assert status == 1
    first, second = json.loads(out)["members"]
    assert {door["state"] for door in first["doors"]} == {"shut"}
    stands_open = {(door["key"], door["way"]) for door in second["doors"] if door["state"] == "open"}
    assert stands_open == {("sealed", Way.SET_DECRYPT), ("sealed", Way.COPY_DECRYPT), ("sealed", Way.UNWRAP)}
    assert state(domain.place, 1) == before, "CKA_DECRYPT was taken away again"
    status, out, _ = domain("verify", "verified")
    assert status == 1
    assert "  open       can be given CKA_DECRYPT: sealed\n" in out


def test_a_key_that_can_decrypt_or_leave_is_found(domain: Domain) -> None:
    everything = {ck.CKA_DECRYPT: True, ck.CKA_EXTRACTABLE: True, ck.CKA_ALLOWED_MECHANISMS: None}
    put_sealed(domain.place, 0, sealed_value(domain.place), changes=everything)
    status, out, _ = domain("verify", "verified", "--json")
    assert status == 1
    doors = json.loads(out)["members"][0]["doors"]
    assert {door["way"] for door in doors if door["state"] == "open"} == {Way.WRAP, Way.DECRYPT}


def test_a_member_without_domain_keys_is_no_success(domain: Domain) -> None:
    token = domain.place.tokens[1]
    with application(MODULE, token.environment, token.label, token.pin) as app:
        (key,) = app.find({ck.CKA_ID: domain_id(domain.place.group.id, DomainKey.OPEN)})
        app.destroy(key)
    status, out, _ = domain("verify", "verified")
    assert status == 1
    assert "verified-1: its open domain key is missing" in out
    status, out, _ = domain("show", "verified")
    assert status == 1
    assert "verified-1: its open domain key is missing" in out
