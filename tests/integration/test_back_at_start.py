"""A member that was away when no application was left to bring it back: one that starts later does not serve from it
before it was resynchronised (SEMANTICS.md sections 4 and 5)."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cli import config_write
from pyha.cli.main import main
from pyha.cryptoki import constants as ck
from pyha.ha.settings import RecoveryMode, RecoverySettings, Role
from pyha.runtime import config
from pyha.runtime.settings import GroupSettings, LogLevel
from tests.application import Application
from tests.chaos import behind_chaos
from tests.client import client
from tests.integration.conftest import DEMO, TestGroup
from tests.integration.replication_tools import P256, STAYS, scene
from tests.integration.test_tombstones import tombstones

Group = Callable[..., TestGroup]
LABEL = DEMO
BACKGROUND = RecoverySettings(RecoveryMode.BACKGROUND, interval=0.2)
ON_CALL = RecoverySettings(RecoveryMode.ON_CALL, interval=0.2)
MANUAL = RecoverySettings(RecoveryMode.MANUAL, interval=0.2)
BEHIND = "lost: it was away while objects were made, changed or deleted, and was not resynchronised since"
EVERY = f'group "{LABEL}": every member was away'
AWAY = "C_Initialize -> answer CKR_DEVICE_ERROR"
LONGEST = 60.0
"""Seconds after which a test stops waiting for what does not happen."""


def aes(app: Application, label: bytes) -> int:
    """A key that must not leave."""
    return app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: label, ck.CKA_VALUE_LEN: 32})


def pair(app: Application, label: bytes) -> None:
    """A key pair that must not leave."""
    public = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, ck.CKA_LABEL: label}
    app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**STAYS, ck.CKA_SIGN: True, ck.CKA_LABEL: label})


def happened(app: Application) -> None:
    """A key pair was made, a key was deleted, and one renamed: after `before`."""
    pair(app, b"made")
    app.destroy(*app.find({ck.CKA_LABEL: b"deleted"}))
    (old,) = app.find({ck.CKA_LABEL: b"old"})
    app.set(old, {ck.CKA_LABEL: b"new"})


def before(app: Application) -> None:
    """What is there when the member goes."""
    for label in (b"deleted", b"old"):
        aes(app, label)


def labels(app: Application) -> list[bytes]:
    """What a search finds."""
    return sorted(app.read(each, ck.CKA_LABEL)[ck.CKA_LABEL] or b"" for each in app.find({}))


AFTER = [b"made", b"made", b"new"]
"""The labels of what is there then."""


def missing(made: TestGroup, away: Iterable[int] = (0,)) -> None:
    """The members of `away` miss it all, and are back; every application has ended."""
    with made.application() as app:
        before(app)
    made.only(*(index for index in range(len(made.tokens)) if index not in away))
    with made.application() as app:
        happened(app)
    made.only(*range(len(made.tokens)))


def until(made: TestGroup, text: str, times: int = 1) -> None:
    end = time.monotonic() + LONGEST
    while made.logged().count(text) < times:
        assert time.monotonic() < end, made.logged()
        time.sleep(0.01)  # the log is a file of another process: there is no event to wait for


def all_alike(made: TestGroup) -> None:
    """Every token holds the same, and nobody misses anything any more."""
    with scene(made) as it:
        first, *rest = it.inventory()
        assert all(each == first for each in rest), made.logged()
        assert [tombstones(member) for member in it.members] == [[]] * len(it.members)
        it.everywhere(b"made", 2)


@pytest.mark.parametrize("recovery", [BACKGROUND, ON_CALL], ids=["background", "on-call"])
def test_what_the_first_member_missed_is_seen_as_it_is(group: Group, recovery: RecoverySettings) -> None:
    made = group(recovery=recovery)
    missing(made)
    with made.application() as app, made.application() as other:
        assert labels(app) == labels(other) == AFTER
        # The second process finds it out, or resynchronised already by the first.
        out = made.logged().count(f"member {LABEL}-0 {BEHIND}")
        assert out in (1, 2)
        until(made, f"member {LABEL}-0 returned", out)
        assert labels(app) == labels(other) == AFTER
    all_alike(made)
    with made.application() as app:
        assert labels(app) == AFTER
    assert made.logged().count(BEHIND) == out, "it was resynchronised"


def test_where_nobody_brings_it_back_it_stays_out(group: Group, tmp_path: Path) -> None:
    """The member is away by itself: its module fails."""
    made = group(recovery=MANUAL)
    plans = behind_chaos(made, tmp_path)
    with made.application() as app:
        before(app)
    plans[0].set(AWAY)
    with made.application() as app:
        happened(app)
    plans[0].set()
    for times in (1, 2):
        with made.application() as app:
            assert labels(app) == AFTER
            assert made.logged().count(f"member {LABEL}-0 {BEHIND} (nobody does that by itself: pyha group") == times
            if times == 2:
                assert main(["group", "recover", LABEL, "--config", str(made.conf)]) == 0
                end = time.monotonic() + LONGEST
                while f"member {LABEL}-0 returned" not in made.logged():
                    assert time.monotonic() < end, made.logged()
                    assert labels(app) == AFTER
    all_alike(made)


def test_a_sync_in_between_brings_it_back(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    made = group()
    missing(made)
    monkeypatch.setenv("TEST_PIN", made.pin)
    assert main(["group", "sync", LABEL, "--config", str(made.conf), "--pin-source", "env:TEST_PIN"]) == 0
    with made.application() as app:
        assert labels(app) == AFTER
    assert BEHIND not in made.logged()
    all_alike(made)


def test_a_standby_member_that_has_it_all_serves(group: Group) -> None:
    made = group()

    def stand_by(settings: GroupSettings) -> GroupSettings:
        first, *rest = settings.members
        return replace(settings, members=(first, *(replace(each, role=Role.STANDBY) for each in rest)))

    made.reconfigure(stand_by)
    missing(made)
    with made.application() as app:
        assert labels(app) == AFTER


def test_where_every_member_missed_something_all_serve_as_they_are(group: Group) -> None:
    made = group()
    missing(made)
    made.only(0)
    with made.application() as app:
        aes(app, b"made by the other")
        app.destroy(*app.find({ck.CKA_LABEL: b"old"}))
    made.only(0, 1, 2)
    with made.application() as app:
        assert EVERY in made.logged()
        assert " lost" not in made.logged()
        assert app.generate_random(8)
    # With a thread that compares them they are alike soon.
    with made.application() as app:
        assert len(app.find({ck.CKA_LABEL: b"deleted"})) == 1, "the first member has not heard of it"
    made.reconfigure(lambda settings: replace(settings, recovery=BACKGROUND))
    said = replace(config.load(str(made.conf)), log_level=LogLevel.NOTICE)
    config_write.write(str(made.conf), config_write.render(said))
    with made.application():
        until(made, "members held different objects: resync carried out")
    with made.application() as app:
        assert labels(app) == [b"made", b"made", b"made by the other", b"new"]
    all_alike(made)


def test_who_is_disabled_or_removed_is_no_concern(group: Group) -> None:
    made = group()
    missing(made, (2,))
    made.only(0, 1)
    with made.application() as app:
        assert labels(app) == AFTER
    made.reconfigure(lambda settings: replace(settings, members=settings.members[:2]))
    with made.application() as app:
        assert labels(app) == AFTER
    assert " lost" not in made.logged()


def test_a_member_whose_helper_dies_in_the_look(group: Group, tmp_path: Path) -> None:
    made = group(recovery=ON_CALL)
    missing(made)
    plans = behind_chaos(made, tmp_path)
    # The first search is that for the domain keys.
    plans[1].set("C_FindObjectsInit nth=2 -> crash")
    with made.application() as app:
        assert f"member {LABEL}-1 lost: its helper crashed" in made.logged()
        assert f"member {LABEL}-0 {BEHIND}" in made.logged()
        plans[1].set()
        assert labels(app) == AFTER
        for index in range(2):
            until(made, f"member {LABEL}-{index} returned")
    all_alike(made)


def test_a_member_that_refuses_to_search_fails_no_login(group: Group, tmp_path: Path) -> None:
    made = group()
    missing(made)
    plans = behind_chaos(made, tmp_path)
    plans[1].set("C_FindObjectsInit nth=2 -> answer CKR_FUNCTION_FAILED")
    with made.application() as app:
        assert f"member {LABEL}-0 {BEHIND}" in made.logged()
        assert f"member {LABEL}-1 lost" not in made.logged()
        assert labels(app) == AFTER


def test_the_look_is_taken_at_the_first_login_as_user(group: Group, tmp_path: Path) -> None:
    """Not by the SO, who sees no records, and not once more."""
    made = group()
    missing(made)
    plans = behind_chaos(made, tmp_path)
    searched = "C_FindObjectsInit -> delay 0"
    plans[1].set(searched)
    with client(made.module, made.environment) as app:
        session = app.open(app.slot_of(LABEL))[1]
        assert app.login(session, made.tokens[0].so_pin, ck.CKU_SO) == ck.CKR_OK
        assert app.logout(session) == ck.CKR_OK
        assert BEHIND not in made.logged()
        assert plans[1].count(searched) == 0
        counts = []
        for _ in range(3):
            assert app.login(session, made.pin) == ck.CKR_OK
            assert app.logout(session) == ck.CKR_OK
            counts.append(plans[1].count(searched))
    assert made.logged().count(BEHIND) == 1
    # For the domain keys each time, for the records once.
    assert counts == [2, 3, 4]
