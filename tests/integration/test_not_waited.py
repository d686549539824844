"""A process that could not wait for another one's resync any longer makes and changes objects beside it: the resync
notices, and does not take what it has seen half of for what is missing (SEMANTICS.md section 5)."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.chaos import LIMIT, behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import STAYS, scene
from tests.integration.test_exclusion import FAR, other_process

Group = Callable[..., TestGroup]
LABEL = "synced"
PAST = 0.0


def test_a_deletion_that_did_not_wait_is_not_undone(
    group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = group(label=LABEL)
    plans = behind_chaos(made, tmp_path)
    monkeypatch.setenv("TEST_PIN", made.pin)
    words = ["group", "sync", LABEL, "--pin-source", "env:TEST_PIN", "--config", str(made.conf)]
    resync, impatient = other_process(made), other_process(made)
    with scene(made) as it:
        it.app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: b"kept", ck.CKA_VALUE_LEN: 32})
        it.app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: b"gone", ck.CKA_VALUE_LEN: 32})
        probe = resync._opened()
        assert probe is not None
        with resync.alone(FAR):
            running = subprocess.Popen([sys.executable, "-m", "pyha.cli.main", *words], env=os.environ)
            until(lambda: probe.is_held(resync._resync))
            plans[1].set("C_FindObjectsInit once -> hang")
        plans[1].wait_for("C_FindObjectsInit")
        with impatient.shared(PAST):
            # As an application deletes: member by member, beside a resync that has begun to read.
            (gone_0, real_0), *others = it.everywhere(b"gone")
            for member, real in others:
                member.destroy(real)
            plans[1].release()
            until(lambda: not probe.is_held(resync._loner))
            gone_0.destroy(real_0)
        assert running.wait(LIMIT) == 0
        probe.close()
        assert all(b"gone" not in labels and b"kept" in labels for labels in it.inventory()), it.inventory()
        first, second, third = it.inventory()
        assert first == second == third


def until(happened: Callable[[], bool]) -> None:
    """What no event tells of."""
    limit = time.monotonic() + LIMIT
    while not happened():  # a lock that another takes gives no event
        assert time.monotonic() < limit
        time.sleep(0.001)
