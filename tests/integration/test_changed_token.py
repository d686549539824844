"""A slot that has another token than its member's, while the member is in or on its way back: the token is asked for
nothing, gets no object and no PIN, and the member is none any more (SEMANTICS.md section 4)."""

import os
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from pyha.ha.domain import domain_label
from pyha.ha.group import Cause
from pyha.runtime import config
from pyha.runtime.assembly import codecs_for, connector
from pyha.runtime.group import GroupRuntime
from tests.chaos import Plan, behind_chaos
from tests.client import Client, aes_key, client, ec_pair, helpers
from tests.integration.conftest import TestGroup
from tests.integration.test_recovery import LABEL, recovering, until
from tests.softhsm import SoftHSM, SoftHSMToken

Group = Callable[..., TestGroup]
OK = ck.CKR_OK
OTHER = ('C_GetTokenInfo -> write 80 "another serial  "', "C_Login -> delay 0", "C_SetPIN -> delay 0")
"""What a plan says where the slot has another token; calls that carry a PIN are counted."""
STRANGER = "not a member any more: its slot has another token"


class Scene:
    """A group, each member behind a plan, and an application with a session."""

    def __init__(self, made: TestGroup, plans: list[Plan], app: Client) -> None:
        self.made, self.plans, self.app = made, plans, app
        self.slot = app.slot_of(LABEL)
        self.session = app.open(self.slot)[1]

    def change(self, index: int) -> None:
        self.plans[index].set(*OTHER)

    def expect_out(self, index: int) -> None:
        """The member is out for good, nobody else is, and its token has got no PIN."""
        name = self.made.tokens[index].label
        assert f"member {name} lost: {STRANGER}" in self.made.logged()
        assert self.made.logged().count(" lost: ") == 1
        assert "recovery attempt" not in self.made.logged()
        assert not {"C_Login", "C_SetPIN"} & set(self.plans[index].fired())


@pytest.fixture
def scene(group: Group, tmp_path: Path) -> Iterator[Scene]:
    made = recovering(group)
    plans = behind_chaos(made, tmp_path)
    with client(made.module, made.environment) as app:
        yield Scene(made, plans, app)


@pytest.mark.parametrize("index", [0, 1])
def test_before_a_login(scene: Scene, index: int) -> None:
    scene.change(index)
    assert scene.app.login(scene.session, "1234") == OK
    scene.expect_out(index)
    aes_key(scene.app, scene.session)


@pytest.mark.parametrize("index", [0, 1])
def test_before_a_login_that_heals(scene: Scene, index: int) -> None:
    assert scene.app.login(scene.session, "1234") == OK
    _, private = ec_pair(scene.app, scene.session)
    scene.plans[index].set(*OTHER, "C_SignInit once -> lose-login")
    for _ in range(6):
        assert scene.app.sign(scene.session, ck.CKM_ECDSA, private, bytes(32))[0] == OK
    scene.expect_out(index)


@pytest.mark.parametrize("index", [0, 1])
def test_before_a_session_is_used(scene: Scene, index: int) -> None:
    assert scene.app.login(scene.session, "1234") == OK
    scene.change(index)
    # Each holds a real session on one of the members, so that all have to open new ones: a member that is busy for a
    # moment has its turn later.
    held: list[int] = []
    while "lost: " not in scene.made.logged() and len(held) < 1000:
        held.append(scene.app.open(scene.slot)[1])
        assert scene.app.start("Digest", held[-1], ck.CKM_SHA256) == OK
    scene.expect_out(index)
    for each in held:
        assert scene.app.out("Digest", each, b"x")[0] == OK


@pytest.mark.parametrize("index", [0, 1])
def test_before_a_pin_is_changed(scene: Scene, index: int) -> None:
    assert scene.app.login(scene.session, "1234") == OK
    scene.change(index)
    assert scene.app.set_pin(scene.session, "1234", "4321") == (ck.CKR_DEVICE_ERROR if index == 0 else OK)
    scene.expect_out(index)


def test_before_something_is_made(scene: Scene) -> None:
    assert scene.app.login(scene.session, "1234") == OK
    scene.change(1)
    aes_key(scene.app, scene.session, b"made")
    scene.expect_out(1)
    assert [labels(scene.made, index) for index in range(3)] == [{b"made"}, set(), {b"made"}]


def test_before_something_is_deleted(scene: Scene) -> None:
    assert scene.app.login(scene.session, "1234") == OK
    doomed = aes_key(scene.app, scene.session, b"doomed")
    scene.change(1)
    assert scene.app.destroy(scene.session, doomed) == OK
    scene.expect_out(1)
    assert labels(scene.made, 1) == {b"doomed"}


def labels(made: TestGroup, index: int) -> set[bytes]:
    """Of the application's keys that are on the member's token."""
    with made.member(index) as token:
        return {label for label in (b"doomed", b"made") if token.find({ck.CKA_LABEL: label})}


def test_one_wrong_answer_changes_nothing(scene: Scene) -> None:
    scene.plans[1].set(*(line.replace("Info ->", "Info once ->") for line in OTHER))
    assert scene.app.login(scene.session, "1234") == OK
    aes_key(scene.app, scene.session)
    assert scene.plans[1].fired().count("C_GetTokenInfo") == 1
    assert " lost: " not in scene.made.logged()


def test_a_probe_notices_it(group: Group, tmp_path: Path) -> None:
    made = recovering(group)
    plans = behind_chaos(made, tmp_path)
    (settings,) = config.load(str(made.conf)).groups
    watched = GroupRuntime(settings, 0, connector(settings, codecs_for((settings,))))
    try:
        watched.contact()
        watched.probe_idle(0.0)
        assert watched.value.complete()
        plans[1].set(*OTHER)
        watched.probe_idle(0.0)
        assert watched.value.failed(Cause.NOT_A_MEMBER) == (1,)
        assert watched.value.members[1].reason == STRANGER
    finally:
        watched.close(watched.deadline())


# Other tokens, really


def test_a_member_whose_login_has_to_be_healed_has_the_domain_keys_still(group: Group, tmp_path: Path) -> None:
    """A token that was initialised anew may keep its serial: a search there would find nothing, and say CKR_OK."""
    made = recovering(group)
    (settings,) = config.load(str(made.conf)).groups
    plans = behind_chaos(made, tmp_path)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        handles = ec_pair(app, session)
        with made.member(0) as token:
            for each in [*token.find({ck.CKA_LABEL: domain_label(settings.id)}), *token.find({ck.CKA_LABEL: b"ec"})]:
                token.destroy(each)
        plans[0].set("C_FindObjectsInit once -> lose-login")
        assert sorted(app.find(session, {ck.CKA_LABEL: b"ec"})[1]) == sorted(handles)
        assert f"member {LABEL}-0 lost: not a member any more: its sealed domain key is missing" in made.logged()


def put(token: SoftHSMToken, other: SoftHSMToken) -> Path:
    """The other token comes into the member's slot, and is there from now on. Its directory."""
    here, there = directory_of(token), directory_of(other)
    shutil.rmtree(here)
    shutil.copytree(there, here)
    return here


def directory_of(token: SoftHSMToken) -> Path:
    (found,) = [
        each.parent
        for each in token.conf.parent.glob("tokens/*/token.object")
        if token.serial.encode() in each.read_bytes()
    ]
    return found


def content(directory: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in directory.iterdir() if each.suffix == ".object"}


def test_a_token_swapped_under_a_running_member_stays_as_it_is(group: Group, tmp_path: Path) -> None:
    made = recovering(group)
    other = SoftHSM(tmp_path / "other").token(made.tokens[1].label)
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        key = aes_key(app, session)
        place = put(made.tokens[1], other)
        before = content(place)
        assert app.destroy(session, key) == OK
        aes_key(app, session, b"made")
        assert f"member {LABEL}-1 lost: {STRANGER}" in made.logged()
        assert app.logout(session) == OK
        assert app.login(session, "1234") == OK
        assert content(place) == before


def test_another_token_of_the_name_that_the_configuration_states_gets_no_pin(group: Group, tmp_path: Path) -> None:
    made = recovering(group)
    made.reconfigure(
        lambda settings: replace(
            settings,
            members=tuple(replace(each, uri=replace(each.uri, serial=None)) for each in settings.members),
        )
    )
    other = SoftHSM(tmp_path / "other").token(LABEL + "-1", pin="another")
    with client(made.module, made.environment) as app:
        session = app.logged_in(app.slot_of(LABEL))
        os.kill(helpers(LABEL)[LABEL + "-1"], signal.SIGKILL)
        put(made.tokens[1], other)
        until(made, f"member {LABEL}-1 stays out: {STRANGER}", app, session)
        for _ in range(300):
            assert app.random(session)[0] == OK
        assert made.logged().count("recovery attempt") == 1
    with client(other.module, made.tokens[1].environment) as plain:
        info = plain.token_info(plain.slot_of(other.label))[1]
        assert not struct.unpack("<Q", info[96:104])[0] & ck.CKF_USER_PIN_COUNT_LOW, "a wrong PIN has been tried"
