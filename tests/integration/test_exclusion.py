"""Creations and changes of one process wait while another is alone, and are waited for (SEMANTICS.md section 5)."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from pyha.runtime import config
from pyha.runtime.exclusion import Exclusion
from pyha.runtime.gate import GateTimeout
from tests.application import Application
from tests.chaos import behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import STAYS, scene

Group = Callable[..., TestGroup]
LABEL = f"excluded-{os.getpid()}"
FAR = time.monotonic() + 3600


def other_process(made: TestGroup) -> Exclusion:
    """What a process of this group has: ours, which is none of the application."""
    it = Exclusion(config.load(str(made.conf)).groups[0].id)
    it.beside(str(made.conf))
    return it


def aes(app: Application) -> int:
    return app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: b"made", ck.CKA_VALUE_LEN: 32})


def test_creations_and_changes_wait_for_a_resync_and_signatures_do_not(group: Group) -> None:
    with scene(group(label=LABEL)) as it:
        before = it.inventory()
        key = aes(it.app)
        whole = it.inventory()
        for work in (lambda: it.app.set(key, {ck.CKA_LABEL: b"new"}), lambda: it.app.destroy(key), lambda: aes(it.app)):
            resync = other_process(it.group)
            waiting = threading.Thread(target=work)
            with resync.alone(FAR):
                waiting.start()
                # It is there when it asks for its own lock, and goes back again and again.
                probe = resync._opened()
                assert probe is not None
                while not probe.is_held(resync._makers):
                    pass
                probe.close()
                assert it.inventory() == whole
            waiting.join()
            assert it.inventory() != whole
            whole = it.inventory()
        assert [len(each) for each in whole] == [len(each) + 2 for each in before]


def test_what_lasts_only_as_long_as_its_session_does_not_wait(group: Group) -> None:
    with scene(group(label=LABEL)) as it, other_process(it.group).alone(FAR):
        session = {ck.CKA_TOKEN: False, ck.CKA_VALUE_LEN: 32}
        key = it.app.generate(ck.CKM_AES_KEY_GEN, session)
        it.app.set(key, {ck.CKA_LABEL: b"new"})
        copy = it.app.copy(key, {ck.CKA_LABEL: b"copy"})
        assert it.app.encrypt(ck.CKM_AES_ECB, copy, bytes(16)) == it.app.encrypt(ck.CKM_AES_ECB, key, bytes(16))
        it.app.destroy(copy)
        assert "resync" not in it.group.logged()


def test_a_resync_waits_for_what_is_being_made(group: Group, tmp_path: Path) -> None:
    made = group(label=LABEL)
    plans = behind_chaos(made, tmp_path)
    with scene(made) as it:
        plans[1].set("C_UnwrapKey nth=1 -> hang")
        making = threading.Thread(target=aes, args=(it.app,))
        making.start()
        try:
            plans[1].wait_for("C_UnwrapKey")
            with pytest.raises(GateTimeout), other_process(made).alone(0.0):
                pass
        finally:
            plans[1].release()
            making.join()
        with other_process(made).alone(0.0):
            pass
