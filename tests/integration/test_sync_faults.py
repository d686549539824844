"""`pyha group sync` over members that are full, read only, locked, or fail in the middle: what it says, that nothing is
lost by it, and that it ends well once the member is well."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyha.cryptoki import constants as ck
from tests.chaos import behind_chaos
from tests.integration.conftest import TestGroup
from tests.integration.replication_tools import LEAVES, STAYS
from tests.integration.test_group_sync import Sync, secret
from tests.integration.test_resync import DATA, contents, labels

Group = Callable[..., TestGroup]
LABEL = f"synced-{os.getpid()}"
MEBIBYTE = bytes(range(256)) * 4096


@pytest.fixture
def sync(group: Group, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sync:
    return Sync(group(label=LABEL), capsys, monkeypatch)


@pytest.mark.parametrize("answer", ["CKR_DEVICE_MEMORY", "CKR_TOKEN_WRITE_PROTECTED"])
def test_a_token_that_takes_nothing(sync: Sync, tmp_path: Path, answer: str) -> None:
    """Full, or read only: what it does not take is named with the call and the cause, and the others get theirs."""
    made = sync.made
    with made.application() as app:
        secret(app, b"stays", STAYS)
    with made.member(0) as plain:
        secret(plain, b"leaves", LEAVES)
        plain.create({**DATA, ck.CKA_LABEL: b"data", ck.CKA_VALUE: MEBIBYTE})
    with made.member(1) as plain:
        (real,) = plain.find({ck.CKA_LABEL: b"stays"})
        plain.destroy(real)
    plan = behind_chaos(made, tmp_path)[1]
    plan.set(f"C_CreateObject -> answer {answer}", f"C_UnwrapKey -> answer {answer}")
    status, out, err = sync()
    name = made.tokens[1].label
    assert (status, err) == (1, "")
    for what, call in (
        ('data object "data"', "C_CreateObject"),
        ('secret key "leaves"', "C_UnwrapKey"),
        ('secret key "stays"', "C_UnwrapKey"),
    ):
        expected = f"conflict {what} on {name}: it cannot be copied: member {name} refused {call}: {answer}"
        assert expected in out.splitlines(), out
    first, second, third = contents(made)
    assert first == third
    assert (labels(first), labels(second)) == ([b"data", b"leaves", b"stays"], [])
    plan.set()
    assert sync()[0] == 0
    first, second, third = contents(made)
    assert first == second == third
    assert labels(first) == [b"data", b"leaves", b"stays"]
    assert sync("--dry-run") == (0, "Nothing differs.\n", "")


def test_a_locked_pin_is_named_and_tried_on_no_other_token(sync: Sync, tmp_path: Path) -> None:
    plans = behind_chaos(sync.made, tmp_path)
    plans[0].set("C_Login -> answer CKR_PIN_LOCKED")
    status, out, err = sync()
    assert (status, out) == (2, "")
    assert err == f"pyha: {sync.made.tokens[0].label}: login refused: C_Login answered CKR_PIN_LOCKED\n"
    assert plans[0].fired() == ["C_Login"]
    assert plans[1].fired() == plans[2].fired() == []
    plans[0].set()
    assert sync()[0] == 0


@pytest.mark.parametrize(
    ("fault", "status", "says"),
    [
        ("answer CKR_DEVICE_MEMORY", 1, "refused C_CreateObject: CKR_DEVICE_MEMORY"),
        ("crash", 3, "its helper crashed in C_CreateObject"),
    ],
)
def test_large_objects_under_faults(sync: Sync, tmp_path: Path, fault: str, status: int, says: str) -> None:
    """Objects of 1 MiB: the call, the member and the cause are said, and a second run ends well."""
    made = sync.made
    plan = behind_chaos(made, tmp_path)[1]
    watch = "C_CreateObject every=1 -> delay 0"
    plan.set(watch)
    assert sync("--dry-run")[0] == 0
    first_look = plan.count(watch)
    with made.member(0) as plain:
        plain.create({**DATA, ck.CKA_LABEL: b"small", ck.CKA_VALUE: b"0"})
    plan.set()
    plan.set(watch)
    assert sync()[0] == 0
    proof = plan.count(watch) - first_look - 1  # what the helper that copies makes before
    assert first_look <= proof
    with made.member(0) as plain:
        for end in (b"1", b"2"):
            plain.create({**DATA, ck.CKA_LABEL: b"large" + end, ck.CKA_VALUE: MEBIBYTE + end})
    plan.set(f"C_CreateObject nth={proof + 1} -> {fault}")
    found, out, err = sync()
    assert (found, says in out + err) == (status, True), out + err
    assert made.tokens[1].label in out + err
    first, _, third = contents(made)
    assert first == third, "the others have theirs"
    plan.set()
    assert sync()[0] == 0
    first, second, third = contents(made)
    assert first == second == third
    assert labels(first) == [b"large1", b"large2", b"small"]
