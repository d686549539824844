"""A member that does not delete what it is told to, or only says so: it is out, by a tombstone if need be, and what was
deleted comes back from it nowhere."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.application import Answered, Application
from tests.chaos import Plan, behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import P256, STAYS, scene
from tests.integration.test_group_sync import Sync
from tests.integration.test_recovery import until
from tests.integration.test_resync import contents, labels
from tests.integration.test_tombstones import found, tombstones
from tests.integration.test_tombstones_applied import aes, held, recovering, returned

Group = Callable[..., TestGroup]
LIES = "answer CKR_OK"
UNKNOWN = "answer CKR_OBJECT_HANDLE_INVALID"
FAILS = "answer CKR_FUNCTION_FAILED"


def alone_out(made: TestGroup, plan: Plan, app: Application, index: int) -> None:
    """This member is out and the key on it alone, until it deletes; then it returns, and no key is left."""
    assert f"member {made.tokens[index].label} lost" in made.logged()
    assert app.find({ck.CKA_LABEL: b"it"}) == []
    until(made, f'its objects differ: conflict secret key "it" on {made.tokens[index].label}: it cannot be deleted')
    assert app.find({ck.CKA_LABEL: b"it"}) == []
    plan.set()
    returned(made, index)
    assert app.find({ck.CKA_LABEL: b"it"}) == []


@pytest.mark.parametrize(("index", "action"), [(0, LIES), (1, LIES), (2, FAILS)])
def test_what_a_member_keeps_of_a_deletion(group: Group, tmp_path: Path, index: int, action: str) -> None:
    made = recovering(group)
    plan = behind_chaos(made, tmp_path)[index]
    with made.application() as app:
        key = aes(app)
        plan.set(f"C_DestroyObject -> {action}")
        app.destroy(key)
        alone_out(made, plan, app, index)
    assert held(made) == [0] * 3


@pytest.mark.parametrize("action", [LIES, UNKNOWN])
def test_what_a_member_keeps_of_a_creation_that_was_refused(group: Group, tmp_path: Path, action: str) -> None:
    made = recovering(group)
    plans = behind_chaos(made, tmp_path)
    with made.application() as app:
        plans[0].set(f"C_DestroyObject -> {action}")
        plans[2].set("C_UnwrapKey nth=1 -> answer CKR_DEVICE_MEMORY")
        with pytest.raises(Answered, match="CKR_DEVICE_MEMORY"):
            aes(app)
        alone_out(made, plans[0], app, 0)
    assert held(made) == [0] * 3


def test_a_tombstone_is_not_marked_where_its_deletion_failed(
    group: Group, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = Sync(group(label="synced"), capsys, monkeypatch)
    made = sync.made
    plan = behind_chaos(made, tmp_path)[2]
    with made.application() as app:
        aes(app)
    made.only(0, 1)
    with made.application() as app:
        app.destroy(found(app))
    made.only(0, 1, 2)
    for action in (LIES, FAILS):
        plan.set(f"C_DestroyObject -> {action}")
        status, out, _ = sync()
        assert status == 1
        assert f'conflict secret key "it" on {made.tokens[2].label}: it cannot be deleted' in out
        with scene(made) as it:
            assert [len(tombstones(member)) for member in it.members[:2]] == [1, 1]
            assert [len(member.find({ck.CKA_LABEL: b"it"})) for member in it.members] == [0, 0, 1]
    plan.set()
    assert sync()[0] == 0
    assert [labels(each) for each in contents(made)] == [[]] * 3


def test_who_serves_and_does_not_take_a_tombstone_is_out(group: Group, tmp_path: Path) -> None:
    """It was taken in as it was, when the application started: every member had missed something."""
    made = recovering(group)
    plan = behind_chaos(made, tmp_path)[2]
    with made.application() as app:
        app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: b"it", ck.CKA_VALUE_LEN: 32})
    made.only(0, 1)
    with made.application() as app:
        app.destroy(found(app))
    made.only(2)
    with made.application() as app:
        app.create({ck.CKA_CLASS: ck.CKO_DATA, ck.CKA_TOKEN: True, ck.CKA_PRIVATE: True, ck.CKA_LABEL: b"its own"})
    made.only(0, 1, 2)
    plan.set(f"C_DestroyObject -> {FAILS}")
    with made.application() as app:
        until(made, f"member {made.tokens[2].label} lost: its objects differ: conflict secret key")
        alone_out(made, plan, app, 2)
    assert held(made) == [0] * 3


def test_what_a_member_does_not_show_is_deleted_there_too(
    group: Group, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SoftHSM may overlook what another process has made: it would come back from there, with its record."""
    sync = Sync(group(label="synced"), capsys, monkeypatch)
    made = sync.made
    plan = behind_chaos(made, tmp_path)[1]
    with made.application() as app:
        pair = {ck.CKA_LABEL: b"it", ck.CKA_ID: b"1"}
        public = {ck.CKA_TOKEN: True, ck.CKA_EC_PARAMS: P256, **pair}
        app.pair(ck.CKM_EC_KEY_PAIR_GEN, public, {**STAYS, **pair, ck.CKA_SIGN: True})
    with made.application() as app:
        handles = app.find({ck.CKA_LABEL: b"it"})
        plan.set("C_FindObjects -> length 0")
        for each in handles:
            app.destroy(each)
        plan.set()
    assert sync()[0] == 0
    assert [labels(each) for each in contents(made)] == [[]] * 3
