"""`pyha domain verify` on a member whose module lets the doors stand open, or fails when they are tried."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cli.chaos_plan import chaos_module
from pyha.runtime.doors import Way
from tests.chaos import Plan
from tests.domain_tools import Domain, Place, places


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Place]]:
    yield from places(tmp_path_factory, "verified", 1)


@pytest.fixture
def domain(make: Callable[[Path], Place], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Domain:
    return Domain(make(tmp_path / "place"), capsys)


SETS, COPIES = {Way.SET_DECRYPT, Way.SET_EXTRACTABLE}, {Way.COPY_DECRYPT, Way.COPY_EXTRACTABLE}


def test_what_a_module_lets_happen_is_open_and_what_it_does_not_say_is_not_tried(domain: Domain) -> None:
    plan = Plan(domain.place.directory / "plan")
    (member,) = domain.place.group.members
    uri = replace(member.uri, module_path=str(chaos_module()))
    domain.place.reconfigure(
        members=(replace(member, uri=uri, environment={**member.environment, **plan.environment}),)
    )

    def doors(*faults: str) -> tuple[int, dict[str, set[Way]]]:
        plan.set(*faults)
        status, out, _ = domain("verify", "verified", "--json")
        found: dict[str, set[Way]] = {}
        for each in json.loads(out)["members"][0]["doors"]:
            found.setdefault(each["state"], set()).add(Way(each["way"]))
        return status, found

    every = set(Way)
    for function, ways in (
        ("C_SetAttributeValue", SETS),
        ("C_CopyObject", COPIES),
        ("C_UnwrapKey", {Way.UNWRAP}),
        ("C_DecryptInit", {Way.DECRYPT}),
    ):
        handle = f"{function} -> write 0 hex:ffffff7f00000000"
        makes = function in ("C_CopyObject", "C_UnwrapKey")
        done = doors(f"{function} -> answer-after CKR_OK", *([handle] if makes else []))
        assert done == (1, {"open": ways, "shut": every - ways}), function
    # Neither open nor shut: nothing was found out.
    for fault, ways in (
        ("C_SetAttributeValue -> answer CKR_SESSION_HANDLE_INVALID", SETS),
        ("C_CopyObject -> answer CKR_DEVICE_MEMORY", COPIES),
        ("C_CopyObject -> answer CKR_OK", COPIES),  # and no handle
        ("C_GenerateKey -> answer CKR_MECHANISM_INVALID", {Way.UNWRAP}),
    ):
        assert doors(fault) == (1, {"not tried": ways, "shut": every - ways}), fault
    plan.set("C_CopyObject -> answer CKR_TOKEN_NOT_PRESENT")
    status, out, _ = domain("verify", "verified")
    assert (status, "CKR_TOKEN_NOT_PRESENT" in out) == (1, True), out
    assert doors("C_SetAttributeValue -> answer CKR_ACTION_PROHIBITED") == (0, {"shut": every})
