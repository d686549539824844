"""An escrow record lives exactly as long as its key, though that is deleted while records are written or doubled."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.application import Application
from tests.chaos import behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, STAYS, scene
from tests.integration.test_group_sync import Sync
from tests.integration.test_recovery import until
from tests.integration.test_resync import contents, labels
from tests.integration.test_tombstones import found
from tests.integration.test_tombstones_applied import held, recovering

Group = Callable[..., TestGroup]
LONGEST = 120.0
"""Seconds after which something counts as hung."""


def key(app: Application) -> int:
    return app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: b"it", ck.CKA_VALUE_LEN: 32})


def test_no_record_is_written_of_a_key_that_is_deleted_meanwhile(
    group: Group, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another host, which the resync does not exclude, when the plan has been made."""
    sync = Sync(group(label="synced"), capsys, monkeypatch)
    made = sync.made
    made.reconfigure(lambda settings: replace(settings, deadline=LONGEST))
    with made.application() as app:
        app.generate(ck.CKM_AES_KEY_GEN, {**LEAVES, ck.CKA_LABEL: b"drifts", ck.CKA_VALUE_LEN: 32})
        key(app)
    with made.member(0) as plain:  # the others follow it, before anything is copied
        plain.set(found(plain, b"drifts"), {ck.CKA_ENCRYPT: False})
    with made.member(2) as plain:
        for real in plain.find({ck.CKA_APPLICATION: b"pyha"}):
            plain.destroy(real)
        plain.destroy(found(plain))
    plan = behind_chaos(made, tmp_path)[2]
    plan.set("C_SetAttributeValue once -> hang")
    syncing = subprocess.Popen([sys.executable, "-m", "pyha.cli.main", *sync.words], stdout=subprocess.DEVNULL)
    written = "C_CreateObject every=1 -> delay 0"
    try:
        plan.wait_for("C_SetAttributeValue")
        plan.add(written)
        for index in (0, 1):
            with made.member(index) as plain:
                for real in plain.find({ck.CKA_APPLICATION: b"pyha"}):
                    plain.destroy(real)
                plain.destroy(found(plain))
    finally:
        plan.release()
        status = syncing.wait(LONGEST)
    assert status == 0
    assert plan.count(written) == 0
    assert [labels(each) for each in contents(made)] == [[b"drifts"]] * 3


def test_a_record_that_was_doubled_goes_with_its_key(group: Group) -> None:
    made = recovering(group)
    with made.application() as app:
        key(app)
        with made.member(1) as plain:
            (real,) = plain.find({ck.CKA_APPLICATION: b"pyha"})
            plain.copy(real, {})
        app.destroy(found(app))
        with scene(made) as it:
            until(made, "members held different objects: resync carried out 1 steps")
            assert it.records() == [0, 0, 0]
    assert held(made) == [0] * 3
