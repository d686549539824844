"""What others do while a resync lets them in between two of its steps."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pyha.cli.entering import SharedPin
from pyha.cli.gathering import gathered
from pyha.cryptoki import constants as ck
from pyha.runtime import config
from pyha.runtime.resync import Beside, resynchronise
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import STAYS

LABEL = "resynced"


class LetsIn(Beside):
    """Lets others in once, before the first step."""

    def __init__(self, others: Callable[[], None]) -> None:
        self._others = others
        self._taken = 0

    def goes_on(self, at: int) -> bool:
        if not self._taken:
            self._others()
            self._taken = 1
        return True

    def taken(self) -> int:
        return self._taken


def test_what_they_delete_does_not_come_back(group: Callable[..., TestGroup], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tombstone is seen, though the steps that follow make objects on the same token."""
    made = group(label=LABEL)
    monkeypatch.setenv("TEST_PIN", made.pin)
    (settings,) = config.load(str(made.conf)).groups
    members = tuple(replace(each, enabled=at < 2) for at, each in enumerate(settings.members))
    with made.application() as app:
        for label in (b"one", b"other"):
            app.generate(ck.CKM_AES_KEY_GEN, {**STAYS, ck.CKA_LABEL: label, ck.CKA_VALUE_LEN: 32})
    made.only(0)
    with made.application() as app, SharedPin("env:TEST_PIN", "") as pin:

        def delete(label: bytes) -> None:
            (key,) = app.find({ck.CKA_LABEL: label})
            app.destroy(key)

        delete(b"one")
        with gathered(str(made.conf), replace(settings, members=members), pin) as runtime:
            # One tombstone less a member, in place of the one that there is.
            beside = LetsIn(lambda: delete(b"other"))
            assert resynchronise(runtime, runtime.present(), beside=beside).finished
    for index in range(2):
        with made.member(index) as plain:
            keys = plain.find({ck.CKA_CLASS: ck.CKO_SECRET_KEY})
            assert {plain.read(each, ck.CKA_LABEL)[ck.CKA_LABEL] for each in keys}.isdisjoint({b"one", b"other"})
