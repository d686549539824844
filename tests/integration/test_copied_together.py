"""Many data objects that a member lacks are copied several at once: one that fails among them is one that failed, and
none is there twice (docs/resync.md)."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.chaos import behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.test_group_sync import Sync
from tests.integration.test_resync import DATA, contents, labels
from tests.integration.test_sync_killed import proofs

Group = Callable[..., TestGroup]
VALUES = [b"", b"0" * 600, b"1" * 5000, *(b"value %d" % number for number in range(17))]
"""Some that do not go with the others, because they are empty or long."""
FAILS = 6
"""The creation that fails: in the middle of those that are made at once."""


@pytest.fixture
def sync(group: Group, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sync:
    return Sync(group(members=2, label=f"together-{os.getpid()}"), capsys, monkeypatch)


@pytest.mark.parametrize(
    ("fault", "status", "there"),
    [
        ("answer CKR_DEVICE_MEMORY", (1,), len(VALUES) - 1),  # refused: it alone is left
        ("answer CKR_SESSION_HANDLE_INVALID", (0,), len(VALUES)),  # healed
        ("answer-after CKR_GENERAL_ERROR", (0,), len(VALUES)),  # in doubt, and it was made: seen by the next plan
        ("lose-login", (2, 3), None),  # met by a search, or by a creation: so far as none was needed
        ("crash", (3,), FAILS - 1),
    ],
)
def test_one_of_many_fails(sync: Sync, tmp_path: Path, fault: str, status: tuple[int, ...], there: int | None) -> None:
    made = sync.made
    with made.member(0) as plain:
        for number, value in enumerate(VALUES):
            private = number % 2 > 0
            template = {**DATA, ck.CKA_PRIVATE: private, ck.CKA_LABEL: b"%02d" % number, ck.CKA_APPLICATION: b"many"}
            plain.create({**template, ck.CKA_VALUE: value} if value else template)
    plan = behind_chaos(made, tmp_path)[1]
    plan.set("C_CreateObject every=1 -> delay 0")
    assert sync("--dry-run")[0] == 1
    plan.set(f"C_CreateObject nth={proofs(plan) + FAILS} -> {fault}")
    found = sync()
    assert found[0] in status, found
    first, second = contents(made)
    assert there is None or len(labels(second)) == there
    assert set(labels(second)) < set(labels(first)) or there == len(VALUES)
    assert len(set(labels(second))) == len(labels(second))
    plan.set()
    assert sync()[0] == 0
    first, second = contents(made)
    assert first == second
    assert labels(first) == [b"%02d" % number for number in range(len(VALUES))]
